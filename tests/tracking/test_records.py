import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttq_plugin.tracking import front
from ttq_plugin.tracking.records import GrowingFront, objective_vector

from .study import OBJECTIVES, make_trial

# Few distinct values: ties and duplicates are what goes wrong.
_value = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, math.nan, math.inf])
_trial = st.tuples(st.sampled_from(["complete", "complete", "failed", "pruned"]), st.tuples(_value, _value, _value))


def by_definition(records, objectives):
    vectors = {record.number: objective_vector(record, objectives) for record in records}
    vectors = {number: vector for number, vector in vectors.items() if vector is not None}
    return {
        number
        for number, vector in vectors.items()
        if not any(
            all(a >= b for a, b in zip(other, vector, strict=True))
            and any(a > b for a, b in zip(other, vector, strict=True))
            for other in vectors.values()
        )
    }


@given(st.lists(_trial, max_size=25), st.sampled_from([1, 2, 3]))
def test_the_front_is_what_its_definition_says(trials, count):
    objectives = OBJECTIVES[:count]
    records = [
        make_trial(number, dict(zip(OBJECTIVES, values, strict=True)), state=state)
        for number, (state, values) in enumerate(trials)
    ]
    assert front(records, objectives) == by_definition(records, objectives)
    assert front(records[::-1], objectives) == front(records, objectives)
    growing, off = GrowingFront(objectives), set()
    for record in records:
        off |= growing.add(record)
    assert growing.members == front(records, objectives) == {record.number for record in records} - off


def test_equal_trials_share_the_front():
    records = [make_trial(number, dict.fromkeys(OBJECTIVES, 0.5)) for number in range(3)]
    assert front(records, OBJECTIVES) == {0, 1, 2}


@pytest.mark.parametrize(
    "metrics", [{}, {"mcc": 0.9}, dict.fromkeys(OBJECTIVES, math.nan), dict.fromkeys(OBJECTIVES, math.inf)]
)
def test_a_trial_without_every_objective_is_never_on_the_front(metrics):
    assert front([make_trial(0, metrics)], OBJECTIVES) == set()


def test_importing_the_package_loads_neither_mlflow_nor_matplotlib():
    code = """if True:
        import sys, ttq_plugin.tracking as tracking
        tracking.TrialRecord, tracking.front, tracking.Store, tracking.StudyRecorder, tracking.plot_front
        print(sorted({"mlflow", "matplotlib", "optuna", "torch"} & sys.modules.keys()))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
