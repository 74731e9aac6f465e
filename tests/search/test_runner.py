"""Searches with real worker processes on objectives in closed form."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.exceptions import StorageInternalError

from ttq_plugin.errors import InputError
from ttq_plugin.search.join import join_search
from ttq_plugin.search.runner import run_search
from ttq_plugin.search.space.load import parse_space
from ttq_plugin.search.space.stopping import GiveUp
from ttq_plugin.search.study.ledger import counted, finished, losses
from ttq_plugin.search.study.study import load_study


def search(space, storage, name="s", **keywords):
    options = {"workers": 1, "trials": 6, "trial_module": "fake_trial", "poll_seconds": 0.05} | keywords
    return run_search(space, storage, name, **options)


def outcome(storage, name="s"):
    return finished(load_study(storage, name))


def test_exactly_the_number_asked_for_with_several_workers(space, storage, tmp_path):
    seen = []
    summary = search(
        space, storage, workers=2, trials=9, data="sleep=0.3", models_dir=tmp_path / "models",
        on_poll=lambda done, running: seen.append((len(done), len(running))),
    )  # fmt: skip
    assert (summary.complete, summary.failed, summary.lost) == (9, 0, 0)
    assert not summary.interrupted and summary.error is None
    study = load_study(storage, "s")
    assert len(study.trials) == 9 == counted(study)
    assert len({trial.user_attrs["worker"]["pid"] for trial in study.trials}) == 2
    assert [record.origin for record in finished(study)] == ["paper"] * 2 + ["search"] * 7
    assert seen[-1] == (9, 0) and max(running for _, running in seen) == 2
    for record in finished(study):
        assert record.state == "complete" and record.reason is None
        assert record.seed == record.parameters["seed"] == 3 and "task" not in record.parameters
        assert set(record.metrics) == {"mcc", "cr_gain_total", "ec_gain_total"}
        assert record.notes == ["a note", "energy is inf"] and record.seconds >= 0.05
        model = tmp_path / "models" / f"trial-{record.number}.safetensors"
        assert model.read_text() == f"{record.parameters['method']} {record.parameters['lr']}"
    assert finished(study)[0].parameters == {
        "method": "ttq", "t": 0.05, "lr": 1e-3, "lr_scale": 1e-3, "epochs": 30, "share": 1.0, "seed": 3,
    }  # fmt: skip


def trials_of(storage, name):
    return [(record.parameters, record.metrics) for record in outcome(storage, name)]


def test_one_worker_gives_the_same_trials_again_and_also_when_resumed(space, storage):
    search(space, storage, "one", trials=16)
    search(space, storage, "two", trials=7)
    assert search(space, storage, "two", trials=16, resume=True).complete == 16
    assert trials_of(storage, "one") == trials_of(storage, "two")
    search(space, storage, "other", trials=5, seed=4)
    assert trials_of(storage, "one")[4] != trials_of(storage, "other")[4]
    assert search(space, storage, "two", trials=3, resume=True).complete == 16, "nothing is left to do"


def test_a_killed_workers_trial_is_run_again_and_counts_once(space, storage, tmp_path):
    flag = tmp_path / "killed"
    summary = search(space, storage, workers=2, trials=6, data=f"sleep=0.05,kill={flag}")
    assert flag.exists()
    assert (summary.complete, summary.failed, summary.lost) == (6, 0, 1)
    records = outcome(storage)
    assert [record.state for record in records] == ["complete"] * 6
    ((lost, reasons),) = losses(load_study(storage, "s")).items()
    assert reasons == ["worker killed (signal 9)"] and records[lost].origin == "paper"
    assert records[lost].notes == ["a note", "energy is inf", "run again: worker killed (signal 9)"]


def test_a_trial_that_always_kills_is_given_up_and_the_search_goes_on(space, storage):
    only = space.model_copy(update={"paper": space.paper[:1]})
    summary = search(only, storage, workers=1, trials=1, data="always-kill=ttq")
    assert (summary.complete, summary.failed, summary.lost) == (0, 1, 3) and summary.error is None
    assert outcome(storage)[-1].reason == "worker killed (signal 9), given up after 3 attempts"


def test_how_often_is_the_spaces_to_say(space, storage):
    once = space.model_copy(update={"paper": space.paper[:1], "give_up": GiveUp(attempts=1, alike=2, crashes=1)})
    summary = search(once, storage, trials=1, data="always-kill=ttq")
    assert (summary.complete, summary.failed, summary.lost) == (0, 1, 1)
    assert outcome(storage)[0].reason == "worker killed (signal 9), given up after 1 attempt"
    assert search(once, storage, "bug", data="bug").error.startswith("The first 2 trials all failed with the same")
    assert search(once, storage, "dead", data="die").error.startswith("1 worker ended without")


@pytest.mark.parametrize(
    "data, reason",
    [
        ("diverge", "diverged: the loss is nan in epoch 1"),
        ("nan", "diverged: the objective mcc is nan"),
        ("inf", "diverged: the objective mcc is inf"),
    ],
)
def test_a_trial_without_finite_objectives_fails_and_the_search_goes_on(space, storage, tmp_path, data, reason):
    summary = search(space, storage, trials=8, data=data, models_dir=tmp_path)
    assert summary.complete + summary.failed == 8 and summary.failed > 0 and summary.lost == 0
    for record in outcome(storage):
        odd = record.parameters["epochs"] % 2
        assert (record.state, record.reason) == (("failed", reason) if odd else ("complete", None))
        assert (tmp_path / f"trial-{record.number}.safetensors").exists() != odd
        assert record.seconds >= 0 and record.started > 1e9


@pytest.mark.parametrize(
    "data, error",
    [
        ("bug", "The first 3 trials all failed with the same error: RuntimeError: a bug (fake_trial.py, line "),
        ("nometric", "The first 3 trials all failed with the same error: KeyError: 'mcc'"),
        ("badprepare", "Preparing mnist-cnn failed: OSError: the model's cache is broken (fake_trial.py, line "),
    ],
)
def test_a_hopeless_search_stops_and_says_why(space, storage, data, error):
    summary = search(space, storage, trials=30, data=data)
    assert summary.error.startswith(error) and summary.complete == 0 and summary.failed <= 3 and not summary.interrupted


def test_bad_input_met_by_a_worker_is_the_searchs(space, storage, tmp_path):
    with pytest.raises(InputError, match="^There is no data set here.$"):
        search(space, storage, data="badinput", workers=2)
    with pytest.raises(InputError, match="number of trials must be at least 1, got 0"):
        search(space, storage, trials=0)
    with pytest.raises(InputError, match="number of workers must be at least 1, got -2"):
        search(space, storage, workers=-2)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="models cannot be made"):
        search(space, storage, models_dir=tmp_path / "file" / "models")


def test_workers_that_cannot_even_start_end_the_search(space, storage):
    summary = search(space, storage, data="die")
    assert summary.error == "4 workers in a row ended without finishing a trial (the last: exit code 7)."
    summary = search(space, storage, "t", trial_module="fake_trial_that_is_missing")
    assert summary.error.startswith("Preparing mnist-cnn failed: ModuleNotFoundError: No module named")


def test_an_error_of_the_callers_own_leaves_no_worker_behind(space, storage):
    def on_poll(done, running):
        if running:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search(space, storage, workers=2, data="sleep=1", on_poll=on_poll)
    study = load_study(storage, "s")
    assert set(sum(losses(study).values(), [])) == {"interrupted"} and counted(study) == 0
    assert finished(study) == []
    assert not any(Path(f"/proc/{trial.user_attrs['worker']['pid']}").exists()
                   for trial in study.trials if "worker" in trial.user_attrs)  # fmt: skip


def test_a_database_that_fails_on_the_way_is_named(space, storage, monkeypatch):
    def counted_once(study, calls=[]):  # noqa: B006 (it counts its calls)
        calls.append(study)
        if len(calls) > 1:
            raise StorageInternalError("An exception is raised during the commit.") from OSError("disk I/O error")
        return 0

    monkeypatch.setattr("ttq_plugin.search.crew.loop.counted", counted_once)
    with pytest.raises(InputError, match="studies.db failed during the search: disk I/O error.$"):
        search(space, storage, data="sleep=1", patience=0)


def test_resume_with_other_objectives(space, space_text, storage):
    search(space, storage, trials=2)
    other = parse_space(space_text.replace("ec_gain_total]", "srqw]"), "s")
    with pytest.raises(InputError, match="a study keeps its objectives"):
        search(other, storage, trials=4, resume=True)


def test_one_works_on_a_study_from_elsewhere(space, storage):
    search(space, storage, trials=2)
    load_study(storage, "s").set_user_attr("trials", 4)
    assert join_search(storage, "s", trial_module="fake_trial") == 2
    assert [record.state for record in outcome(storage)] == ["complete"] * 4


PARENT = """
import json, sys
sys.path.insert(0, {here!r})
from dataclasses import asdict
from ttq_plugin.search.space.load import load_space
from ttq_plugin.search.runner import run_search
summary = run_search(load_space({space!r}), {storage!r}, "s", workers=2, trials=40, data={data!r}, poll_seconds=0.05,
                     trial_module="fake_trial", resume={resume})
print(json.dumps(asdict(summary)))
"""


@contextlib.contextmanager
def parent(tmp_path, space_text, storage, data, resume=False):
    """A search in a process group of its own, so that a Ctrl-C reaches its workers as a terminal's does."""
    (tmp_path / "space.yaml").write_text(space_text)
    script = PARENT.format(
        here=str(Path(__file__).parent), space=str(tmp_path / "space.yaml"), storage=storage, data=data, resume=resume
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=-1, stderr=-1, text=True, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(storage, condition):
    until, trials = time.monotonic() + 120, []
    while time.monotonic() < until:
        with contextlib.suppress(InputError):  # the parent has not made it yet
            study = load_study(storage, "s")
            trials = study.trials
            if condition(trials):
                return study
        time.sleep(0.05)
    seen = [(trial.number, trial.state.name, sorted(trial.user_attrs)) for trial in trials]
    raise AssertionError(f"it did not come to that within 120 s, but to {seen}")


def in_state(trials, state):
    return [trial for trial in trials if trial.state.name == state]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_search_keeps_what_is_finished(space, space_text, storage, tmp_path, number):
    with parent(tmp_path, space_text, storage, "hang") as process:
        wait_for(storage, lambda trials: sum("parameters" in trial.user_attrs for trial in trials) == 4)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and err == ""
    summary = json.loads(out)
    records = outcome(storage)
    assert summary["interrupted"] and summary["error"] is None
    assert (summary["complete"], summary["failed"], summary["lost"]) == (2, 0, 2)
    assert [record.reason for record in records] == [None, None]
    left = load_study(storage, "s")
    assert losses(left) == {2: ["interrupted"], 3: ["interrupted"]}
    assert [trial.state.name for trial in left.trials[2:]] == ["WAITING"] * 2
    assert search(space, storage, trials=4, resume=True).complete == 4
    assert outcome(storage)[:2] == records, "nothing that was finished changes"
    assert [trial.params for trial in load_study(storage, "s").trials] == [trial.params for trial in left.trials]


def test_a_search_killed_outright_takes_its_workers_along_and_can_be_resumed(space, space_text, storage, tmp_path):
    with parent(tmp_path, space_text, storage, "hang") as process:
        study = wait_for(storage, lambda trials: sum("parameters" in trial.user_attrs for trial in trials) == 4)
        pids = [trial.user_attrs["worker"]["pid"] for trial in in_state(study.trials, "RUNNING")]
        with pytest.raises(InputError, match="Another process is searching the study 's' right now"):
            search(space, storage, resume=True)
        process.kill()
        process.wait()
    until = time.monotonic() + 5
    while any(Path(f"/proc/{pid}/exe").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in pids)
    summary = search(space, storage, trials=5, resume=True)
    assert (summary.complete, summary.failed, summary.lost) == (5, 0, 2)
    assert losses(load_study(storage, "s")) == {2: ["interrupted"], 3: ["interrupted"]}, "it speaks against no trial"
