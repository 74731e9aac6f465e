"""The task's metric through a search: its own name everywhere, better when lower where it is an error."""

import copy
import math
import pickle
from types import SimpleNamespace

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.search.study.test_early import changed, judge_of, look, records, search
from ttq_plugin.errors import InputError
from ttq_plugin.fronts import Objective, edge, upward
from ttq_plugin.search.confirm import judge
from ttq_plugin.search.space.load import parse_space
from ttq_plugin.search.study.early import Judge
from ttq_plugin.search.study.study import check_same_search, load_study, open_study, stored_space
from ttq_plugin.tracking import front
from ttq_plugin.tracking.words import for_picture, with_unit

LOWER = Objective("rmse", higher=False)
REGRESSION = {"metric": "rmse", "objectives": ["rmse", "cr_gain_total", "ec_gain_total"]}


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_upward_turns_errors_around_and_leaves_scores(one, other):
    assert upward("mcc", one) == one == upward(Objective("mcc"), one)
    if abs(one - other) > 1e-6 * (1 + max(abs(one), abs(other)) ** 2):  # what float64 can tell apart after 1 / (1 + e)
        assert (upward(LOWER, one) > upward(LOWER, other)) == (one < other)
    assert upward(LOWER, abs(one)) > 0
    assert (upward(LOWER, 0.0), upward(LOWER, 1.0), upward(LOWER, -1.0)) == (1.0, 0.5, 2.0)


def test_an_objective_is_its_name_and_keeps_what_it_knows_in_other_processes():
    objective = Objective("worst_error", False, "worst error", False)
    for twin in (pickle.loads(pickle.dumps(objective)), copy.deepcopy(objective)):
        assert twin == "worst_error" and (twin.higher, twin.label, twin.fraction) == (False, "worst error", False)
    assert objective.on_test == "test_worst_error" and for_picture(objective.on_test) == "worst error (test)"
    assert with_unit(objective, 0.25) == "0.25" and with_unit("mcc", 0.25) == "25.00 %"


def test_the_edge_of_an_error_ends_below():
    points = [(3.0, 0.9), (1.0, 0.2), (2.0, 0.5), (2.5, 0.4), (1.0, 0.1)]
    assert edge(points, (LOWER, "gain")) == [(1.0, 0.2), (2.0, 0.5), (3.0, 0.9)]


def dominated(one, other):
    """By natural values: an error first, then gains."""
    no_worse = one[0] <= other[0] and all(a >= b for a, b in zip(one[1:], other[1:], strict=True))
    return no_worse and one != other


def test_a_search_for_a_low_error_finds_the_front_of_its_natural_values(space_text, storage):
    space = changed(space_text, **REGRESSION, constraints=["rmse <= 60"], stop_early={"score_floor": 70})
    search(space, storage, trials=8, data="rmse")
    study = load_study(storage, "s")
    done = records(storage)
    complete = {r.number: tuple(r.metrics[name] for name in space.objectives) for r in done if r.state == "complete"}
    able = {number: vector for number, vector in complete.items() if vector[0] <= 60}
    assert 2 <= len(able) and all(r.metrics["rmse"] > 0 and "mcc" not in r.metrics for r in done if r.metrics)
    brute = {n for n, v in able.items() if not any(dominated(other, v) for other in able.values())}
    assert front(done, space.objectives) == brute == {trial.number for trial in study.best_trials}
    for trial in study.get_trials():
        if trial.state == optuna.trial.TrialState.COMPLETE:
            assert trial.values[0] == pytest.approx(1 / (1 + complete[trial.number][0]))
            assert trial.values[1:] == list(complete[trial.number][1:])
            assert trial.constraints["rmse <= 60"] == pytest.approx((complete[trial.number][0] - 60) / 60)
    assert [text for r in done for text in r.violated] == ["rmse <= 60"] * (len(complete) - len(able))
    again = stored_space(study)
    assert again == space and not again.score.higher and study.user_attrs["objectives"] == REGRESSION["objectives"]


def test_an_error_above_the_floor_ends_a_trial(space_text):
    space = changed(space_text, **REGRESSION, stop_early={"score_floor": 2.5})
    study = optuna.create_study(directions=["maximize"] * 3)
    stops = Judge(study, space, epochs=10)
    numbers = {"rmse": 2.5, "cr_gain_total": 0.1, "ec_gain_total": 0.1}
    stops(SimpleNamespace(epoch=5, dead=(), measure=lambda: numbers))
    with pytest.raises(optuna.TrialPruned, match="^validation RMSE 2.600 above 2.5 after epoch 5 of 10$"):
        stops(SimpleNamespace(epoch=5, dead=(), measure=lambda: numbers | {"rmse": 2.6}))


def test_an_interval_of_an_error_is_better_at_its_lower_end():
    objectives = (LOWER, "cr_gain_total")
    runs = {1: [(1.0, 0.5), (1.2, 0.5)], 2: [(3.0, 0.4), (3.1, 0.4)], 3: [(9.0, 0.9), (9.1, 0.9)]}
    found = judge(runs, objectives)
    assert {number: result.holds for number, result in found.items()} == {1: True, 2: False, 3: True}
    assert found[1].mean == (pytest.approx(1.1), 0.5) and found[1].low[0] < 1.1 < found[1].high[0]


@pytest.mark.parametrize(
    "keys, sentence",
    [
        ({"metric": "rmse"}, "objectives[0]: unknown objective 'mcc', allowed: rmse, cr_gain_total,"),
        ({"metric": "rsme"}, "metric: unknown metric 'rsme' (did you mean rmse?), allowed: mcc,"),
        ({"metric": {"name": "rmse", "higher": True}}, "metric.higher must be false for the built-in metric rmse"),
        ({"metric": {"name": "test_it", "higher": True}}, "metric.name: A metric cannot be called 'test_it'"),
        ({"metric": {"higher": True}}, "metric.name is missing, required here: name"),
        ({"metric": {"name": "x", "higher": True, "lower": 1}}, "metric: unknown key 'lower'"),
        (REGRESSION | {"constraints": ["mcc >= 0.5"]}, "constraints[0]: unknown quantity 'mcc', allowed: rmse,"),
        (REGRESSION | {"constraints": ["rmse <= -1"]}, "nothing satisfies 'rmse <= -1': rmse is at least 0"),
        (REGRESSION | {"stop_early": {"mcc_floor": 0.5}}, "stop_early.mcc_floor: is for the metric mcc, but this "
                                                          "task's is rmse; use score_floor"),
        (REGRESSION | {"stop_early": {"score_floor": -1}}, "score_floor must lie in [0, inf] for rmse, got -1"),
        ({"stop_early": {"score_floor": 0.5, "mcc_floor": 0.5}}, "means the same as score_floor; leave one"),
    ],
)  # fmt: skip
def test_a_metric_that_does_not_fit_is_one_sentence(space_text, keys, sentence):
    with pytest.raises(InputError) as caught:
        changed(space_text, **keys)
    assert sentence in str(caught.value)


def test_a_metric_of_ones_own_is_an_objective_whose_direction_the_study_keeps(space_text, storage):
    own = {"name": "worst_error", "higher": False, "label": "worst error"}
    space = changed(space_text, metric=own, objectives=["worst_error", "cr_gain_total"])
    assert parse_space(space.text, "again") == space and space.limits == ()
    assert upward(space.objectives[0], 3.0) == 0.25 and space.quantities["worst_error"].high == math.inf
    study = open_study(storage, "own", space, resume=False)
    assert not stored_space(study).objectives[0].higher
    turned = changed(space_text, metric=own | {"higher": True}, objectives=["worst_error", "cr_gain_total"])
    with pytest.raises(InputError, match=r"scored by worst_error \(lower is better\), but the task's metric is worst"):
        check_same_search(study, turned, None)


def test_errors_that_may_still_fall_are_not_dominated(space_text):
    text = space_text.replace("[mcc, cr", "[rmse, cr")
    finals, looks = [(1.0, 0.5, 0.5)] * 8, (3.0, 0.5, 0.5)
    stops, space = judge_of(text + "\nmetric: rmse\n", finals, looks)
    look(stops, space, (3.0, 0.5, 0.5))  # would become equal
    with pytest.raises(optuna.TrialPruned, match="^dominated even at best"):
        look(stops, space, (3.5, 0.5, 0.5))
