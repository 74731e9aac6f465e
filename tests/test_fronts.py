"""The hypervolume against inclusion and exclusion, and against a count of random points."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttq_plugin.errors import InputError
from ttq_plugin.fronts import hypervolume


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
