"""What a sampler is shown of a large study."""

import optuna
import pytest
from optuna.trial import TrialState

from tests.search.study.test_early import changed, records, search
from ttq_plugin.search.study import insides, memory
from ttq_plugin.search.study.ledger import finished
from ttq_plugin.search.study.memory import remembered
from ttq_plugin.search.study.study import load_study


def study_of(values, broken=()):
    study = optuna.create_study(directions=["maximize"] * 2)
    for number, pair in enumerate(values):
        trial = study.ask()
        trial.set_constraint("limit", 1.0 if number in broken else -1.0)
        study.tell(trial, pair)
    return study


def numbers(trials):
    return [trial.number for trial in trials]


def test_the_front_and_the_latest_are_remembered():
    values = [(0.9, 0.1), (0.1, 0.9), (0.99, 0.99), *((0.05, index / 100) for index in range(9))]
    study = study_of(values, broken={2})
    running = study.ask()
    assert numbers(remembered(study.trials, 12)) == list(range(13)), "few enough: all of them"
    # Trial 2 dominates both members, but breaks a constraint.
    assert numbers(remembered(study.trials, 5)) == [0, 1, 9, 10, 11, running.number]
    assert numbers(remembered(study.trials, 2)) == [1, 11, running.number], "the front has half of the room"
    study.tell(running, state=TrialState.FAIL)
    assert numbers(remembered(study.trials, 5)) == [0, 1, 9, 10, 11], "failed ones teach nothing"
    broken = study_of([(0.5, 0.5)] * 4, broken=range(4))
    assert numbers(remembered(broken.trials, 3)) == [1, 2, 3], "no front at all"


def test_a_sampler_sees_what_it_is_shown():
    study = study_of([(0.5, index / 30) for index in range(30)])

    class Sees(optuna.samplers.TPESampler):
        def sample_independent(self, study, trial, param_name, param_distribution):
            seen.append(numbers(study.get_trials(deepcopy=False)))
            return super().sample_independent(study, trial, param_name, param_distribution)

    seen = []
    study.sampler = insides.Shown(Sees(seed=0), study.trials[5:12])
    value = study.ask().suggest_float("x", 0, 1)
    assert seen == [[5, 6, 7, 8, 9, 10, 11]] and 0 <= value <= 1


def test_few_trials_are_drawn_as_without_it(space_text, storage, monkeypatch):
    space = changed(space_text)
    search(space, storage, "whole", trials=14)
    monkeypatch.setattr("ttq_plugin.search.crew.worker.insides.Shown", lambda sampler, trials: sampler)
    search(space, storage, "plain", trials=14)
    whole, plain = ([record.parameters for record in records(storage, name)] for name in ("whole", "plain"))
    assert whole == plain


def test_a_search_goes_on_and_can_be_resumed_when_it_forgets(space_text, storage, monkeypatch):
    monkeypatch.setattr("ttq_plugin.search.crew.worker.remembered", lambda trials: remembered(trials, 6))
    space = changed(space_text)
    search(space, storage, "one", trials=15)
    search(space, storage, "two", trials=9)
    search(space, storage, "two", trials=15, resume=True)
    one, two = ([record.parameters for record in records(storage, name)] for name in ("one", "two"))
    assert one == two and memory.MOST == 1000


def test_records_are_made_once(space_text, storage):
    search(changed(space_text), storage, trials=4)
    study, known = load_study(storage, "s"), {}
    first = finished(study, known=known)
    again = finished(study, known=known)
    assert first == again == finished(study) and all(a is b for a, b in zip(first, again, strict=True))
    assert known.keys() == {0, 1, 2, 3}


def test_notes_are_written_together_or_not_at_all(space_text, storage):
    study = search(changed(space_text), storage, trials=1)
    trial = study.ask()
    with pytest.raises(TypeError):
        insides.note(study, trial, {"good": 1, "bad": object()})
    paper = {"origin": "paper"}  # with which it was enqueued
    assert study.trials[-1].user_attrs == paper
    insides.note(study, trial, {"good": 1, "list": [1.5]})
    insides.note(study, trial, {"good": 2})
    assert study.trials[-1].user_attrs == {**paper, "good": 2, "list": [1.5]}
    study.tell(trial, state=TrialState.FAIL)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        insides.note(study, trial, {"good": 3})
