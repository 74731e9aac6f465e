"""Splits by subject where a subject has samples of several classes."""

from __future__ import annotations

import numpy as np
import pytest

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.subjects import three_ways


def split(groups, labels, seed=0, classes=3):
    return three_ways(np.array(groups), np.array(labels), classes, seed, source="mine.h5", noun="subject")


@pytest.mark.parametrize("seed", range(20))
def test_whole_subjects_and_every_class_in_every_split(seed):
    rng = np.random.default_rng(seed)
    groups, labels = rng.integers(5, 45, size=900), rng.choice(3, size=900, p=[0.6, 0.3, 0.1])
    parts = split(groups, labels, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(900))
    people = [set(groups[part]) for part in parts]
    assert not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]
    for part in parts:
        assert np.all(np.diff(part) > 0)
        np.testing.assert_allclose(np.bincount(labels[part]) / len(part), np.bincount(labels) / 900, atol=0.06)
    train, validation, test = map(len, parts)
    assert 0.65 < train / 900 < 0.78 and 0.1 < validation / 900 < 0.2 and 0.1 < test / 900 < 0.2


def test_equal_seeds_give_equal_splits():
    rng = np.random.default_rng(0)
    groups, labels = rng.integers(30, size=300), rng.integers(3, size=300)
    first, again, other = split(groups, labels), split(groups, labels), split(groups, labels, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("seed", range(10))
def test_three_subjects_of_a_rare_class_are_enough(seed):
    groups = np.repeat(np.arange(12), 20)
    labels = np.tile([0, 1], 120)
    labels[[5, 45, 85]] = 2  # one sample each of subjects 0, 2 and 4
    for part in split(groups, labels, seed):
        assert (labels[part] == 2).sum() == 1


@pytest.mark.parametrize(
    "groups, labels, message",
    [
        (
            [0, 1, 2] * 2,
            [0, 0, 0, 1, 1, 1],
            "mine.h5: class 2 is found in 0 subjects, at least 3 are needed, one for each",
        ),
        ([0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2], "class 0 is found in 2 subjects, at least 3"),
        ([0, 1, 2] * 3, [0, 0, 0, 1, 1, 1, 2, 2, 1], "class 2 is found in 2 subjects"),
        ([], [], "class 0 is found in 0 subjects"),
    ],
)
def test_too_few_subjects(groups, labels, message):
    with pytest.raises(InputError, match=message):
        split(np.array(groups, dtype=int), np.array(labels, dtype=int))


def test_subjects_that_cannot_be_spread():
    # Classes 0 and 1 share subjects 0 and 1, so that their third ones, 2 and 3, need the same split; class 2 has both.
    groups = np.array([0, 1, 2, 0, 1, 3, 2, 3, 4])
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    with pytest.raises(
        InputError, match=r"mine\.h5: its subjects cannot be spread .* \(seed 0\); more subjects of class 0 are needed"
    ):
        split(groups, labels)
