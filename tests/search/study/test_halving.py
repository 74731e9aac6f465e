"""Successive halving for several objectives: the order at a rung, and searches that use it."""

import random
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from tests.search.study.test_early import changed, records, search
from ttq_plugin.errors import InputError
from ttq_plugin.fronts import hypervolume
from ttq_plugin.search.space.load import parse_space
from ttq_plugin.search.space.stopping import Halving, StopEarly
from ttq_plugin.search.study.early import Judge
from ttq_plugin.search.study.halving import Reached, place, room
from ttq_plugin.search.study.study import load_study
from ttq_plugin.tracking.records import front

HALVING = {"stop_early": {"halving": {}}}


def by_definition(own, others):
    """The place by counting: broken constraints, then fronts peeled off one by one, then what each adds alone."""

    def beats(one, other):
        return one != other and all(a >= b for a, b in zip(one, other, strict=True))

    left = [own.values, *(other.values for other in others if other.broken == own.broken)]
    ahead = sum(other.broken < own.broken for other in others)
    while True:
        best = [one for one in left if not any(beats(other, one) for other in left)]
        if own.values in best:
            whole = hypervolume(best)
            adds = [whole - hypervolume(best[:i] + best[i + 1 :]) for i in range(len(best))]
            return ahead + sum(add > adds[best.index(own.values)] + 1e-12 for add in adds)
        ahead += len(best)
        left = [one for one in left if one not in best]


def test_the_order_at_a_rung_is_the_one_by_definition():
    numbers, seen = random.Random(1), set()
    for _ in range(60):
        reached = [
            Reached(numbers.choice([0.0, 0.0, 0.1]), tuple(numbers.randrange(1, 9) / 8 for _ in range(3)))
            for _ in range(numbers.randrange(1, 25))
        ]
        found = place(reached[0], reached[1:])
        assert found == by_definition(reached[0], reached[1:])
        seen.add(found)
    assert len(seen) > 8


def test_a_tie_is_no_reason_to_stop_and_a_broken_constraint_is():
    same = Reached(0.0, (0.5, 0.5))
    assert place(same, [same, same]) == 0
    assert place(Reached(0.2, (0.9, 0.9)), [same, Reached(0.3, (1.0, 1.0))]) == 1
    assert place(Reached(0.0, (-0.1, 0.9)), [Reached(0.0, (0.9, -0.2))]) == 0, "neither adds anything"
    assert [room(trials, 3) for trials in range(1, 8)] == [1, 1, 1, 2, 2, 2, 3]


def test_rungs_lie_at_powers_of_eta():
    assert Halving().fractions == (0.25, 0.5)
    assert Halving(eta=3, rungs=3).fractions == (1 / 27, 1 / 9, 1 / 3)
    assert StopEarly().fractions == () and StopEarly(dominated=True).fractions == (0.25, 0.5, 0.75)
    both = StopEarly(dominated=True, halving=Halving(eta=3, rungs=1))
    assert both.fractions == (0.25, 1 / 3, 0.5, 0.75)


def judged(space, looks, values, *, epoch, epochs=8, full=None):
    """What a judge says of a trial at a rung that others, by their looks, have reached before."""
    trials = [SimpleNamespace(number=number, user_attrs={"looks": look}) for number, look in enumerate(looks)]
    told = []
    judge = Judge(SimpleNamespace(get_trials=lambda **_: trials), space, epochs, full, len(looks), told.append)
    measured = dict(zip(space.objectives, values, strict=False))
    try:
        judge(SimpleNamespace(epoch=epoch, dead=(), measure=lambda: measured))
    except optuna.TrialPruned as stop:
        return str(stop), told
    return None, told


def test_a_trial_goes_on_in_the_better_half_of_those_that_came_before(space_text):
    space = changed(space_text, **HALVING)
    names = list(space.objectives)
    looks = [{"0.25": dict(zip(names, (0.5 + index / 10, 0.5, 0.5), strict=True))} for index in range(3)]
    assert judged(space, [], (0.1, 0.1, 0.1), epoch=2)[0] is None, "the first one has nobody to be behind"
    assert judged(space, looks, (0.65, 0.5, 0.5), epoch=2)[0] is None, "second of four"
    why, told = judged(space, looks, (0.55, 0.5, 0.5), epoch=2)
    assert why == "3 of 4 at this rung, with a validation MCC of 0.550 after epoch 2 of 8"
    assert told == [{"0.25": {"mcc": 0.55, "cr_gain_total": 0.5, "ec_gain_total": 0.5}}], "told before it is judged"
    assert judged(space, looks, (0.1, 0.1, 0.1), epoch=4)[0] is None, "nobody has come to the second rung"
    assert judged(space, looks, (0.1, 0.1, 0.1), epoch=3) == (None, []), "no rung"
    assert judged(space, looks, (0.55, 0.5), epoch=2)[0].startswith("3 of 4"), (
        "the third is known of a finished one only"
    )


def test_who_is_far_below_full_precision_comes_last_at_a_rung(space_text):
    space = changed(space_text, stop_early={"halving": {"rungs": 1}, "far_below": 0.2})
    names = list(space.objectives)
    looks = [{"0.5": dict(zip(names, (0.9, 0.3, 0.3), strict=True))}]
    assert judged(space, looks, (0.76, 0.9, 0.9), epoch=4, full=0.95)[0] is None
    judge_of_nothing = changed(space_text, stop_early={"halving": {"rungs": 1}})
    assert judged(judge_of_nothing, looks, (0.5, 0.9, 0.9), epoch=4, full=0.95)[0] is None
    assert "far below" in judged(space, looks, (0.5, 0.9, 0.9), epoch=4, full=0.95)[0]


def test_a_search_by_halving_stops_trials_that_others_beat_and_keeps_them_off_the_front(space_text, storage):
    space = changed(space_text, **HALVING)
    study = search(space, storage, trials=24, data="fraction")
    found = records(storage)
    stopped = [record for record in found if record.state == "pruned"]
    assert 6 <= len(stopped) <= 18 and len(found) == 24
    assert all("at this rung, with a validation MCC of" in record.reason for record in stopped)
    assert not {record.number for record in stopped} & front(found, space.objectives)
    # The decisions follow from what the storage holds, and from nothing else.
    compared = 0
    for trial in study.trials:
        looks, epochs = trial.user_attrs.get("looks", {}), trial.user_attrs["parameters"]["epochs"]
        if "0.25" in looks and round(epochs / 4) < round(epochs / 2):
            before = [other.user_attrs.get("looks", {}) for other in study.trials[: trial.number]]
            why, _ = judged(space, before, looks["0.25"].values(), epoch=round(epochs / 4), epochs=epochs)
            assert (why is None) == ("0.5" in looks or trial.state == TrialState.COMPLETE)
            compared += 1
    assert compared > 10


def test_it_is_resumed_to_the_same_trials(space_text, storage):
    space = changed(space_text, stop_early={"halving": {"eta": 3, "rungs": 2}, "dominated": True, "collapsed": True})
    search(space, storage, "one", trials=16, data="collapse")
    for target in (5, 11, 16):
        search(space, storage, "two", trials=target, data="collapse", resume=target > 5)
    one, two = ([(t.state, t.params, t.values, t.user_attrs.get("looks"), t.user_attrs.get("reason"))
                 for t in load_study(storage, name).trials] for name in ("one", "two"))  # fmt: skip
    assert one == two and {state for state, *_ in one} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_what_a_file_may_say(space_text):
    with pytest.raises(InputError, match=r"stop_early.halving: unknown key 'rung' \(did you mean rungs\?\)"):
        changed(space_text, stop_early={"halving": {"rung": 2}})
    with pytest.raises(InputError, match=r"stop_early.halving.eta must be greater than or equal to 2, got 1"):
        changed(space_text, stop_early={"halving": {"eta": 1}})
    text = space_text + "stop_early: {collapsed: true, halving: {eta: 4}}\n"
    asked = parse_space(text, "s", {"stop_early": {"dominated": True}})
    assert asked.stop_early == StopEarly(collapsed=True, dominated=True, halving=Halving(eta=4))
