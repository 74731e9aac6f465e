"""Splitting samples by subject where one subject has samples of several classes."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError

FOLDS = 7
"""Number of folds, of which one validates and one tests: about 15 % each."""

Integers = NDArray[np.int64]


def three_ways(
    groups: Integers, labels: Integers, classes: int, seed: int, *, source: object, noun: str
) -> tuple[Integers, Integers, Integers]:
    """Training, validation and test samples: every class in each, no group in two, proportions as near as that allows.

    Args:
        groups: Which group (a person, a recording) each sample belongs to, shape (samples,).
        labels: Class of each sample, from 0, shape (samples,).
        classes: How many classes there must be.
        seed: Equal seeds give equal splits.
        source: Where the samples come from, for messages.
        noun: What a group is, for messages.

    Returns:
        Indices of the three splits, each sorted.

    Raises:
        InputError: If a class is found in fewer than three groups, or the groups cannot be spread so.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    spread = [len(np.unique(groups[labels == label])) for label in range(classes)]
    if min(spread) < 3:
        label = spread.index(min(spread))
        raise InputError(
            f"{source}: class {label} is found in {spread[label]} {noun}s, at least 3 are needed, one for each split."
        )
    # No class has fewer samples than groups, so that no fold asks more of it than it has.
    folder = StratifiedGroupKFold(min(FOLDS, *spread), shuffle=True, random_state=seed)
    folds = [fold for _, fold in folder.split(labels, labels, groups)]
    everything = np.arange(len(labels))
    for validation, test in permutations(folds, 2):
        train = np.setdiff1d(everything, np.concatenate([validation, test]))
        if all(len(np.unique(labels[part])) == classes for part in (train, validation, test)):
            return train, validation, test
    raise InputError(
        f"{source}: its {noun}s cannot be spread over three splits with every class in each (seed {seed}); "
        f"more {noun}s of class {spread.index(min(spread))} are needed."
    )


TRIES = 1000
"""Orders of the groups that ``drawn`` tries."""


def drawn(
    groups: Integers, labels: Integers, classes: int, seed: int, *, share: float, source: object, noun: str
) -> tuple[Integers, Integers, Integers]:
    """As ``three_ways``, but the groups of each split are drawn at random, whatever their sizes.

    This is for groups that are about equally large and have samples of most classes. There, ``three_ways`` would give
    nearly the same splits for all seeds.

    Args:
        groups: Which group (a person, a recording) each sample belongs to, shape (samples,).
        labels: Class of each sample, from 0, shape (samples,).
        classes: How many classes there must be.
        seed: Equal seeds give equal splits.
        share: Fraction of the groups that validate, and of those that test; one at least.
        source: Where the samples come from, for messages.
        noun: What a group is, for messages.

    Returns:
        Indices of the three splits, each sorted.

    Raises:
        InputError: If no order of the groups that was tried has every class in each split.
    """
    generator = np.random.default_rng(seed)
    names = np.unique(groups)
    count = max(1, round(share * len(names)))
    for _ in range(TRIES):
        order = generator.permutation(names)
        chosen = (order[2 * count :], order[:count], order[count : 2 * count])
        train, validation, test = (np.flatnonzero(np.isin(groups, part)) for part in chosen)
        if all(len(np.unique(labels[part])) == classes for part in (train, validation, test)):
            return train, validation, test
    raise InputError(
        f"{source}: its {len(names)} {noun}s cannot be spread over three splits with every class in each "
        f"(seed {seed}); at least 3 {noun}s of every class are needed."
    )


def held_out(
    groups: Integers, labels: Integers, classes: int, seed: int, *, share: float, source: object, noun: str
) -> tuple[Integers, Integers]:
    """Training and validation samples where the test split is given: groups are drawn at random, as by ``drawn``.

    Every class is in both, and at least half of its samples train. Where one person has nearly all samples of a rare
    class, that person therefore trains.

    Args:
        groups: Which group (a person, a recording) each sample belongs to, shape (samples,).
        labels: Class of each sample, from 0, shape (samples,).
        classes: How many classes there must be.
        seed: Equal seeds give equal splits.
        share: Fraction of the groups that validate; one at least.
        source: Where the samples come from, for messages.
        noun: What a group is, for messages.

    Returns:
        Indices of the two splits, each sorted.

    Raises:
        InputError: If no order of the groups that was tried has every class in both splits.
    """
    generator = np.random.default_rng(seed)
    names = np.unique(groups)
    count = max(1, round(share * len(names)))
    whole = np.bincount(labels, minlength=classes)
    for _ in range(TRIES):
        chosen = np.isin(groups, generator.permutation(names)[:count])
        kept = np.bincount(labels[~chosen], minlength=classes)
        if ((kept < whole) & (2 * kept >= whole)).all():
            return np.flatnonzero(~chosen), np.flatnonzero(chosen)
    spread = [len(np.unique(groups[labels == label])) for label in range(classes)]
    raise InputError(
        f"{source}: its {len(names)} training {noun}s cannot be spread over two splits with every class in both and "
        f"half of it in the first (seed {seed}); more {noun}s of class {spread.index(min(spread))} are needed."
    )
