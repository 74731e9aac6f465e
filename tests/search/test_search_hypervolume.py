"""Hypervolumes against an oracle that adds cells, and against volumes known by hand."""

import itertools

import numpy as np
import pytest

from ttq_plugin.errors import InputError
from ttq_plugin.search.hypervolume import hypervolume, hypervolume_over_trials


def cells(points, reference):
    """The volume of the union, cell by cell of the grid that all coordinates span."""
    points = np.asarray(points, dtype=np.float64)
    corners = [np.unique([low, *points[:, axis].clip(low)]) for axis, low in enumerate(reference)]
    total = 0.0
    for upper in itertools.product(*(range(1, len(axis)) for axis in corners)):
        top = [axis[i] for axis, i in zip(corners, upper, strict=True)]
        if (points >= top).all(axis=1).any():
            total += float(np.prod([axis[i] - axis[i - 1] for axis, i in zip(corners, upper, strict=True)]))
    return total


@pytest.mark.parametrize("objectives", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_random_fronts_against_a_sum_of_cells(objectives, seed):
    numbers = np.random.default_rng(seed)
    points = numbers.uniform(-0.3, 1, (9, objectives)).round(1 if seed % 2 else 6)  # rounded: many ties
    reference = numbers.uniform(-0.2, 0.2, objectives)
    assert hypervolume(points, reference) == pytest.approx(cells(points, reference), rel=1e-12)


def test_volumes_known_by_hand():
    assert hypervolume([(0.5, 0.5)]) == 0.25
    assert hypervolume([(1.0, 0.5), (0.5, 1.0)]) == 0.75
    assert hypervolume([(1.0, 0.5), (0.5, 1.0), (0.5, 0.5), (1.0, 0.5)]) == 0.75  # dominated, repeated
    assert hypervolume([(2.0, 3.0, 4.0)], reference=(1, 1, 1)) == 6.0
    assert hypervolume([]) == 0.0


def test_what_does_not_exceed_the_reference_adds_nothing():
    """A loss of energy (a negative gain) must not count, nor turn a product of two negatives into a volume."""
    assert hypervolume([(0.9, -0.5), (-0.2, -0.3), (0.0, 1.0)]) == 0.0
    assert hypervolume([(0.9, -0.5), (0.5, 0.5)]) == 0.25


@pytest.mark.parametrize(
    "points, reference, message",
    [
        ([(1.0, 2.0), (1.0,)], 0, "same two or more objectives, got rows of lengths \\[1, 2\\]"),
        ([(1.0,)], 0, "two or more objectives"),
        ([(1.0, float("nan"))], 0, "finite"),
        ([(1.0, float("inf"))], 0, "finite"),
        ([(1.0, 2.0)], (0, 0, 0), "one for each of 2 objectives"),
    ],
)
def test_bad_points_are_refused(points, reference, message):
    with pytest.raises(InputError, match=message):
        hypervolume(points, reference)


def test_over_trials_each_number_is_that_of_the_trials_so_far():
    numbers = np.random.default_rng(5)
    points = [tuple(row) for row in numbers.uniform(0, 1, (60, 3))]
    holes = [None if i % 7 == 3 else point for i, point in enumerate(points)]
    volumes = hypervolume_over_trials(holes)
    for end in range(1, 61):
        assert volumes[end - 1] == pytest.approx(hypervolume([p for p in holes[:end] if p]), rel=1e-12)
    assert volumes == sorted(volumes) and hypervolume_over_trials([]) == []
    assert hypervolume_over_trials([None, None]) == [0.0, 0.0]
