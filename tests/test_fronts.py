"""The hypervolume against inclusion and exclusion, and against a count of random points."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttq_plugin.errors import InputError
from ttq_plugin.fronts import coverage, hypervolume, hypervolume_over_trials, knee


def by_inclusion_and_exclusion(points, reference):
    """Boxes from the reference to each point: the volume of their union."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for chosen in combinations(points, size):
            corner = np.min(chosen, axis=0) - reference
            total += (-1) ** (size + 1) * np.prod(np.clip(corner, 0, None))
    return total


values = st.floats(-1, 1, allow_subnormal=False)


@given(st.integers(1, 4).flatmap(lambda d: st.lists(st.tuples(*[values] * d), min_size=1, max_size=6)), values)
def test_it_is_the_volume_of_the_union_of_boxes(points, reference):
    assert hypervolume(points, reference) == pytest.approx(by_inclusion_and_exclusion(points, reference), abs=1e-12)


def test_a_reference_corner_of_its_own_and_nothing_to_measure():
    assert hypervolume([(0.9, 0.5, 0.2), (0.5, 0.9, 0.3)]) == pytest.approx(0.9 * 0.5 * 0.2 + 0.5 * 0.9 * 0.3 - 0.05)
    assert hypervolume([(0.9, 0.5)], (0.8, -1.0)) == pytest.approx(0.1 * 1.5)
    assert hypervolume([]) == hypervolume([(-0.1, 0.9)]) == hypervolume([(0.0, 0.9)]) == 0.0


def test_lengths_that_differ_are_refused():
    with pytest.raises(InputError, match=r"must have one length, got \[2, 3\] and 2"):
        hypervolume([(1, 1), (1, 1, 1)])
    with pytest.raises(InputError, match=r"must have one length, got \[2\] and 3"):
        hypervolume([(1, 1)], (0, 0, 0))


def test_over_trials_each_number_is_that_of_the_trials_so_far():
    points = [tuple(row) for row in np.random.default_rng(5).uniform(0, 1, (60, 3))]
    holes = [None if i % 7 == 3 else point for i, point in enumerate(points)]
    volumes = hypervolume_over_trials(holes)
    for end in range(1, 61):
        assert volumes[end - 1] == pytest.approx(hypervolume([p for p in holes[:end] if p]), rel=1e-12)
    assert volumes == sorted(volumes) and hypervolume_over_trials([None]) == [0.0]


def test_coverage_is_the_share_that_is_weakly_dominated():
    high, low = [(0.9, 0.5), (0.5, 0.9)], [(0.9, 0.5), (0.4, 0.4), (0.95, 0.1), (0.2, 0.95)]
    assert coverage(high, low) == 0.5 and coverage(low, high) == 0.5  # an equal point covers in both directions
    assert coverage([], low) == 0.0 and coverage(low, []) is None


def test_the_knee_is_the_bend_whatever_the_units():
    bend = [(1.0, 0.0), (0.9, 0.8), (0.5, 0.9), (0.0, 1.0)]
    assert knee(bend) == 1 == knee([(x, 1e6 * y + 7) for x, y in bend])
    assert knee([(0.3, 0.2)]) == 0  # one member; a constant objective has no range
    assert knee([(0.3, 0.2), (0.3, 0.4)]) == 1
