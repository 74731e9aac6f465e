"""Trials and searches that end early, constraints, samplers: on objectives in closed form, most in this process."""

import itertools
from types import SimpleNamespace

import fake_trial
import optuna
import pytest
from optuna.trial import TrialState

from ttq_plugin.errors import InputError
from ttq_plugin.fronts import hypervolume, upward_vector
from ttq_plugin.search.crew import ending
from ttq_plugin.search.crew.ending import stagnates
from ttq_plugin.search.crew.job import Job
from ttq_plugin.search.crew.worker import work
from ttq_plugin.search.runner import run_search
from ttq_plugin.search.space.load import parse_space
from ttq_plugin.search.space.samplers import grid_size
from ttq_plugin.search.study.early import EXPERIENCE, Judge
from ttq_plugin.search.study.ledger import finished
from ttq_plugin.search.study.study import load_study, open_study
from ttq_plugin.tracking.records import front


def search(space, storage, name="s", *, trials=12, data=None, resume=False, until=None):
    """What a search by one worker does, without the seconds that a worker's process takes to start."""
    study = open_study(storage, name, space, resume=resume)
    study.set_user_attr("until", until)
    work(Job(storage, name, space, trials, study.user_attrs["seed"], data, trial_module="fake_trial"))
    return load_study(storage, name)


def spawned(space, storage, name="s", **keywords):
    options = {"workers": 1, "trial_module": "fake_trial", "poll_seconds": 0.05} | keywords
    return run_search(space, storage, name, **options)


SETTINGS = dict.fromkeys(("task", "t", "t_min", "t_max", "alpha", "bits", "lr_threshold"))


def records(storage, name="s"):
    return finished(load_study(storage, name))


def changed(space_text, **keys):
    return parse_space(space_text, "space.yaml", keys)


def test_a_collapsed_layer_ends_its_trial_and_the_time_saved_is_told(space_text, storage):
    summary = spawned(changed(space_text, stop_early={"collapsed": True}), storage, trials=12, data="collapse")
    pruned = [record for record in records(storage) if record.state == "pruned"]
    assert summary.pruned == len(pruned) > 0 and summary.complete + summary.pruned == 12 and summary.ended == "trials"
    for record in records(storage):
        epochs = record.parameters["epochs"]
        stopped = epochs % 2 == 1 and epochs > 2
        assert (record.state == "pruned") == stopped
        assert record.reason == (f"conv1 collapsed after epoch 2 of {epochs}" if stopped else None)
    saved = [trial.user_attrs.get("saved") for trial in load_study(storage, "s").trials]
    for record, time_saved in zip(records(storage), saved, strict=True):
        if record.state == "pruned":
            assert time_saved == pytest.approx(record.seconds * (record.parameters["epochs"] - 2) / 2, rel=0.05)
    assert summary.saved == pytest.approx(sum(value or 0 for value in saved))


def test_a_floor_for_validation_mcc(space_text, storage):
    # Validation MCC rises in proportion to the epochs, so at a quarter of them it is a quarter of the end's.
    search(changed(space_text, stop_early={"mcc_floor": 0.3}), storage, trials=12, data="fraction")
    met = set()
    for record in records(storage):
        epochs, last = record.parameters["epochs"], load_study(storage, "s").trials[record.number]
        final = fake_trial.run({"fraction": ""}, fake_trial.Settings(**SETTINGS | record.parameters)).metrics["mcc"]
        looks = [epoch for epoch in (round(epochs / 4), round(epochs / 2), round(3 * epochs / 4)) if 0 < epoch < epochs]
        below = [epoch for epoch in looks if final * epoch / epochs < 0.3]
        met.add(record.state)
        assert (record.state == "pruned") == bool(below), last
        if below:
            assert record.reason.endswith(f"below 0.3 after epoch {below[0]} of {epochs}")
    assert met == {"complete", "pruned"}


def judge_of(space_text, finals, looks=(0.5, 0.3, 0.3), limits=()):
    space = changed(space_text, stop_early={"dominated": True}, constraints=list(limits))
    study = optuna.create_study(directions=["maximize"] * 3)
    for values in finals:
        trial = study.ask()
        metrics = dict(zip(space.objectives, values, strict=True))
        trial.set_user_attr("looks", {"0.5": dict(zip(space.objectives, looks, strict=True))})
        trial.set_user_attr("metrics", metrics)
        for limit in space.limits:
            trial.set_constraint(str(limit), limit.violation(metrics[limit.name]))
        study.tell(trial, list(upward_vector(space.objectives, values)))
    return Judge(study, space, epochs=10), space


def look(judge, space, values, epoch=5):
    measured = dict(zip(space.objectives, values, strict=True))
    judge(SimpleNamespace(epoch=epoch, dead=(), measure=lambda: measured))


def test_a_trial_that_the_front_dominates_even_at_best_ends(space_text):
    finals = [(0.9, 0.5, 0.5)] * EXPERIENCE  # each rose by 0.4, 0.2, 0.2 from its look
    judge, space = judge_of(space_text, finals)
    look(judge, space, (0.51, 0.2, 0.2))  # could end at 0.91 MCC
    look(judge, space, (0.2, 0.31, 0.2))  # could end at 0.51 gain
    look(judge, space, (0.5, 0.3, 0.3))  # could become equal, which is not dominated
    look(judge, space, (0.1, 0.1, 0.1), epoch=4)  # not looked at then
    look(judge, space, (0.1, 0.1, 0.1), epoch=10)  # it is over anyway
    with pytest.raises(optuna.TrialPruned, match="^dominated even at best after epoch 5 of 10$"):
        look(judge, space, (0.49, 0.3, 0.3))
    assert judge.looks["0.5"] == {"mcc": 0.49, "cr_gain_total": 0.3, "ec_gain_total": 0.3}
    judge, space = judge_of(space_text, finals[1:])
    look(judge, space, (0.1, 0.1, 0.1))  # too little experience


def test_what_only_a_finished_model_is_measured_for_counts_as_the_best_there_is(space_text):
    judge, space = judge_of(space_text, [(0.9, 0.5, 0.5)] * EXPERIENCE)
    judge(SimpleNamespace(epoch=5, dead=(), measure=lambda: {"mcc": 0.1, "cr_gain_total": 0.1}))
    assert judge.looks["0.5"] == {"mcc": 0.1, "cr_gain_total": 0.1}  # looked at, and not ended


def test_a_trial_that_cannot_keep_a_constraint_any_more_ends(space_text):
    judge, space = judge_of(space_text, [(0.9, 0.5, 0.5)] * EXPERIENCE, limits=["mcc >= 0.8"])
    look(judge, space, (0.41, 0.9, 0.9))
    with pytest.raises(optuna.TrialPruned, match="^mcc >= 0.8 stays broken after epoch 5 of 10$"):
        look(judge, space, (0.39, 0.9, 0.9))


def test_infeasible_trials_are_no_front_to_be_dominated_by(space_text):
    judge, space = judge_of(space_text, [(0.9, 0.5, 0.5)] * EXPERIENCE, limits=["mcc >= 0.95"])
    look(judge, space, (0.6, 0.1, 0.1))
    assert judge.looks["0.5"]["mcc"] == 0.6  # looked at, and not ended


def test_constraints_are_optunas_and_keep_trials_off_the_front(space_text, storage):
    space = changed(space_text, constraints=["cr_gain_total >= 0.9"])
    search(space, storage, trials=14)
    study = load_study(storage, "s")
    for trial, record in zip(study.trials, records(storage), strict=True):
        assert trial.constraints == {"cr_gain_total >= 0.9": pytest.approx(0.9 - record.metrics["cr_gain_total"])}
        assert record.violated == []
    space = changed(space_text, constraints=["cr_gain_total <= 0.9"])
    search(space, storage, "none", trials=5)
    every = records(storage, "none")
    assert all(record.violated == ["cr_gain_total <= 0.9"] for record in every)
    assert front(every, space.objectives) == set() and load_study(storage, "none").best_trials == []
    with pytest.raises(InputError, match="has the constraints cr_gain_total <= 0.9, got none; a study keeps its"):
        search(changed(space_text), storage, "none", resume=True)


@pytest.mark.parametrize("sampler", ["gp", "nsga2", "random", "tpe"])
def test_every_sampler_gives_the_same_trials_again_and_when_resumed(space_text, storage, sampler):
    space = changed(space_text, sampler=sampler, stop_early={"collapsed": True, "dominated": True})
    search(space, storage, "one", trials=13, data="collapse")
    search(space, storage, "two", trials=11, data="collapse")
    search(space, storage, "two", trials=13, data="collapse", resume=True)
    one, two = ([(r.state, r.parameters, r.metrics, r.reason) for r in records(storage, name)]
                for name in ("one", "two"))  # fmt: skip
    if sampler == "nsga2":  # its population depends on the number of trials
        one, two = one[:11], two[:11]
    assert one == two and {state for state, *_ in one} == {"complete", "pruned"}


def test_a_grid_is_gone_through_once_also_after_a_worker_was_killed(space_text, storage, tmp_path):
    text = space_text.split("paper:")[0].replace("lr: {low: 1.0e-4, high: 1.0e-2, log: true}", "lr: 1.0e-3")
    text = text.replace("lr_threshold: {low: 1.0e-5, high: 1.0e-3, log: true}", "lr_threshold: 1.0e-4")
    text = text.replace("share: {low: 0.3, high: 1.0}", "share: {low: 0.3, high: 1.0, points: 2}")
    space = parse_space(text, "s", {"only": ["ttq"], "sampler": "grid"})
    assert grid_size(space) == 18
    killed = f"kill={tmp_path / 'killed'}"
    summary = spawned(space, storage, workers=2, trials=100, data=killed)
    assert (summary.complete, summary.lost, summary.ended) == (18, 1, "grid")
    done = [tuple(r.parameters.items()) for r in records(storage) if r.state == "complete"]
    assert len(set(done)) == 18
    assert len(search(space, storage, "part", trials=5).trials) == 5
    assert len(search(space, storage, "part", trials=100, resume=True).trials) == 18


def test_a_search_ends_on_time_and_keeps_what_runs(space_text, storage, monkeypatch):
    space, clock = changed(space_text), itertools.count()
    monkeypatch.setattr(ending, "time", SimpleNamespace(time=lambda: next(clock)))
    study = search(space, storage, trials=1000, until=4)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4
    assert (
        ending.why_ended(study.trials, space, 1000, 4) == "time"
        and ending.why_ended(study.trials, space, 1000, None) is None
    )


def test_the_search_itself_minds_the_time(space_text, storage):
    summary = spawned(changed(space_text, timeout=0.001), storage)
    assert (summary.ended, summary.complete) == ("time", 0)


def test_a_search_ends_when_its_hypervolume_stagnates(space_text, storage):
    # One setting again and again: nothing new comes.
    text = space_text.split("paper:")[0].replace("lr: {low: 1.0e-4, high: 1.0e-2, log: true}", "lr: 1.0e-3")
    text = text.replace("share: {low: 0.3, high: 1.0}", "share: 1.0").replace("epochs: {low: 1, high: 30}", "epochs: 3")
    space = parse_space(text, "s", {"only": ["ttq"], "stagnation": 5})
    study = search(space, storage, trials=50)
    assert len(study.trials) == 15 and ending.why_ended(study.trials, space, 50, None) == "stagnation"


def test_stagnation_is_a_hypervolume_that_stays():
    study = optuna.create_study(directions=["maximize"] * 2)

    def add(*values):
        trial = study.ask()
        trial.set_constraint("first >= 0.5", 0.5 - values[0])
        study.tell(trial, values)

    for index in range(10):
        add(0.6 + index / 100, 0.5)
    for _ in range(5):
        add(0.69, 0.4)
    assert stagnates(study.trials, 5) and not stagnates(study.trials, 6), "the first ten say nothing yet"
    add(0.4, 0.99)  # broken constraint: no new volume
    assert stagnates(study.trials, 6)
    add(0.69 * 1.002, 0.5)
    assert not stagnates(study.trials, 5)
    assert hypervolume([(0.69 * 1.002, 0.5)]) > 1.001 * hypervolume([(0.69, 0.5)])
    nothing = optuna.create_study(directions=["maximize"] * 2)
    for _ in range(30):
        nothing.tell(nothing.ask(), (-0.1, 0.5))
    assert not stagnates(nothing.trials, 5)


REAL = """
task: mnist-cnn
objectives: [mcc, cr_gain_disk, ec_gain_total]
constraints: [mcc >= 0.6]
stop_early: {collapsed: true, mcc_floor: 0.2, dominated: true}
parameters: {lr: {low: 1.0e-3, high: 4.0e-3}, lr_scale: 1.0e-3, lr_threshold: 1.0e-3, epochs: 2, share: 1.0}
methods:
  pttq: {t_min: {low: 0.5, high: 1.5}, t_max: {low: 0.5, high: 1.5}, alpha: 5.0}
  mixed: {bits: {low: 0.08, high: 0.3}}
"""


def test_real_trainings_give_the_same_trials_and_front_bit_for_bit(storage, cache):
    space = parse_space(REAL, "s")
    told = []
    for name, parts in {"one": [4], "two": [2, 4]}.items():
        for index, target in enumerate(parts):
            study = open_study(storage, name, space, resume=index > 0)
            work(Job(storage, name, space, target, 0, cache=str(cache)))
        study = load_study(storage, name)
        told.append([(t.state, t.params, t.values, t.constraints, t.user_attrs["metrics"], t.user_attrs["looks"])
                     for t in study.trials])  # fmt: skip
        assert {trial.number for trial in study.best_trials} == front(finished(study), space.objectives)
    assert told[0] == told[1]
    assert all(metrics["bits_disk"] % 8 == 0 and "0.5" in looks for *_, metrics, looks in told[0])


def far_judge(space_text, full):
    space = changed(space_text, stop_early={"far_below": 0.2})
    return Judge(SimpleNamespace(get_trials=lambda **_: []), space, 8, full), space


def test_a_trial_far_below_full_precision_ends_when_half_of_it_is_done(space_text):
    judge, space = far_judge(space_text, 0.95)
    look(judge, space, (0.3, 0.9, 0.9), epoch=2)  # after a quarter a training may still recover
    look(judge, space, (0.76, 0.9, 0.9), epoch=4)
    with pytest.raises(optuna.TrialPruned, match=r"0.740 far below full precision's 0.950 after epoch 6 of 8$"):
        look(judge, space, (0.74, 0.9, 0.9), epoch=6)
    judge, space = far_judge(space_text, None)
    look(judge, space, (0.1, 0.9, 0.9), epoch=4)  # nothing is known of full precision


def test_a_trial_that_ends_far_below_full_precision_is_not_on_the_front(space_text):
    from ttq_plugin.search.crew.attempt import attempt

    space = changed(space_text, stop_early={"far_below": 0.2})

    def violations(score):
        metrics = dict.fromkeys(space.objectives, 0.5) | {"mcc": score}
        code = SimpleNamespace(
            Settings=dict, run=lambda *_, **__: SimpleNamespace(metrics=metrics, model=None, notes=[], parts={})
        )
        return attempt(space, code, SimpleNamespace(score=0.95), {}).limits

    assert violations(0.8) == {"mcc within 0.2 of full precision": pytest.approx(-0.05)}
    assert violations(0.24) == {"mcc within 0.2 of full precision": pytest.approx(0.51)}
    assert changed(space_text).far_below(0.1, 0.95) == {}
