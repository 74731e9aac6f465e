"""What goes wrong in a user's own code while a search runs, and the user's own weights on their way to the workers."""

import importlib

import pytest

from tests.search.study.test_early import records, spawned
from ttq_plugin.errors import InputError
from ttq_plugin.search.crew.job import Job
from ttq_plugin.search.crew.worker import work
from ttq_plugin.search.join import job_of
from ttq_plugin.search.space.load import load_space
from ttq_plugin.search.study.study import open_study
from ttq_plugin.tracking import TrialRecord
from ttq_plugin.tracking.remake import remake
from ttq_plugin.trial.run import prepare

QUICK = {"only": ["ttq"], "trials": 4, "stop_early": {"collapsed": False, "dominated": False, "far_below": None}}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return str(tmp_path_factory.mktemp("models"))


def job(storage, space, cache, **more):
    open_study(storage, "s", space, resume=False)
    return Job(storage, "s", space, space.trials, 0, cache=cache, **more)


def test_a_worker_whose_task_loads_other_data_says_so(storage, models):
    space = load_space("house:TASK", QUICK)
    found = prepare("house:TASK", cache=models, curvature=False).fingerprint
    with pytest.raises(InputError, match="load of house:TASK must give the same data for the same arguments"):
        work(job(storage, space, models, fingerprint=found[::-1]))
    assert records(storage) == []
    assert work(Job(storage, "s", space, 2, 0, cache=models, fingerprint=found)) == 2


def test_a_metric_without_a_value_fails_its_trial_and_the_search_goes_on(storage, models):
    space = load_space("house:NANS", QUICK)
    house = importlib.import_module("house")
    made = job(storage, space, models)
    for _ in range(2):  # trained, then from the cache, as the worker will find it
        house.CALLS.clear()
        prepare("house:NANS", seed=made.seed, cache=made.cache)
    house.FIRST[:] = [len(house.CALLS)]  # the first trial's
    house.CALLS.clear()
    work(made)
    house.FIRST.clear()
    done = records(storage)
    assert [record.state for record in done] == ["failed", "complete", "failed", "complete"]
    assert {record.reason for record in done} == {"diverged: the metric sometimes is nan", None}


def test_a_dataset_that_raises_fails_its_trial_with_the_users_line(storage, models, tmp_path, monkeypatch):
    prepare("house:STREAM", cache=models)
    flag = tmp_path / "flag"
    flag.touch()
    monkeypatch.setenv("HOUSE_BREAKS", str(flag))
    space = load_space("house:STREAM", QUICK | {"trials": 3})
    summary = spawned(space, storage, cache=models, trial_module="ttq_plugin.trial.run")
    assert (summary.complete, summary.failed, summary.error) == (2, 1, None)
    reason = records(storage)[0].reason
    assert ": OSError: sample " in reason and "cannot be read (house.py, line " in reason
    assert 'in __getitem__: raise OSError(f"sample {place} cannot be read"))' in reason


def test_the_users_weights_reach_every_worker(storage, tmp_path, space):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"mine")
    summary = spawned(space, storage, trials=2, weights=weights, models_dir=tmp_path / "m", fingerprint=None)
    assert summary.complete == 2
    for number in range(2):
        assert (tmp_path / "m" / f"trial-{number}.safetensors").read_text().endswith(str(weights))
    with pytest.raises(InputError, match="starts from your own full-precision weights, got no --weights"):
        spawned(space, storage, trials=3, resume=True)
    assert job_of(storage, "s").weights == str(weights)
    weights.write_bytes(b"others")
    with pytest.raises(InputError, match="starts from your own full-precision weights, got .*w.safetensors; give the"):
        job_of(storage, "s", weights=weights)
    weights.unlink()
    with pytest.raises(InputError, match="weights .*, which are not on this machine; name a copy with --weights"):
        job_of(storage, "s")


def test_other_data_or_weights_are_another_study(storage, space, tmp_path):
    spawned(space, storage, trials=1, fingerprint="one", data="fingerprint=one")
    with pytest.raises(InputError, match="was searched on other data than the task loads now"):
        spawned(space, storage, trials=2, fingerprint="two", data="fingerprint=two", resume=True)
    (tmp_path / "w").write_bytes(b"x")
    with pytest.raises(InputError, match="starts from the weights of the task's recipe, got "):
        spawned(space, storage, trials=2, fingerprint="one", weights=tmp_path / "w", resume=True)
    with pytest.raises(InputError, match="load must give the same data"):
        spawned(space, storage, trials=2, fingerprint="one", data="fingerprint=two", resume=True)


def test_the_command_that_makes_a_trial_again_names_the_weights():
    record = TrialRecord(0, "complete", {"method": "ttq", "t": 0.1}, {}, "search", 0, 0.0, 1.0)
    assert "--weights '/my models/w.safetensors'" in remake("m:T", record, {"weights": "/my models/w.safetensors"})
