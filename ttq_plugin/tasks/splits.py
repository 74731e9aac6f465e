"""Splitting samples, seeded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stratified(labels: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two disjoint sets of indices with the labels' proportions in both.

    Args:
        labels: Class of each sample, shape (samples,).
        share: Fraction of the samples that go to the second set, in (0, 1).
        seed: Equal seeds give equal splits.

    Returns:
        Indices of the first and of the second set, each sorted.
    """
    from sklearn.model_selection import train_test_split

    first, second = train_test_split(np.arange(len(labels)), test_size=share, random_state=seed, stratify=labels)
    return np.sort(first), np.sort(second)


def stratified_groups(
    groups: NDArray[np.int64], labels: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As ``stratified``, but whole groups go to one set or the other.

    Args:
        groups: Which group each sample belongs to, shape (samples,).
        labels: Class of each sample, the same within a group.
        share: Fraction of the groups that go to the second set, in (0, 1).
        seed: Equal seeds give equal splits.

    Returns:
        Indices of the samples of the first and of the second set, each sorted.
    """
    names, rows = np.unique(groups, return_index=True)
    _, second = stratified(labels[rows], share, seed)
    chosen = np.isin(groups, names[second])
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
