"""Computes scores from confusion matrices, one per group, so that resampling groups means adding matrices.

A confusion matrix says all that these scores need. Resampling then costs a matrix product instead of a pass over the
samples, which for ten thousand samples and two thousand resamples is seconds against many minutes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def _sums(tables: Floats) -> tuple[Floats, Floats, Floats]:
    """Correct, true and predicted counts of each class: three tensors (..., classes)."""
    return np.diagonal(tables, axis1=-2, axis2=-1), tables.sum(-1), tables.sum(-2)


def _share(above: Floats, below: Floats, empty: float = 0.0) -> Floats:
    """``above / below``, and ``empty`` where there is nothing below."""
    return np.where(below > 0, above / np.where(below > 0, below, 1), empty)


def _mean(values: Floats, present: NDArray[np.bool_]) -> Floats:
    """Mean over the last dimension, of those present."""
    return _share((values * present).sum(-1), present.sum(-1).astype(float), np.nan)


def mcc(tables: Floats) -> Floats:
    """Matthews correlation coefficient of confusion matrices (..., true, predicted); Gorodkin 2004, in [-1, 1]."""
    right, true, said = _sums(tables)
    total = true.sum(-1)
    covariance = right.sum(-1) * total - (true * said).sum(-1)
    spread = (total**2 - (true**2).sum(-1)) * (total**2 - (said**2).sum(-1))
    return _share(covariance, np.sqrt(np.maximum(spread, 0)))


def accuracy(tables: Floats) -> Floats:
    """Share of correct samples."""
    right, true, _ = _sums(tables)
    return _share(right.sum(-1), true.sum(-1), np.nan)


def balanced_accuracy(tables: Floats) -> Floats:
    """Mean recall over the classes that are there."""
    right, true, _ = _sums(tables)
    return _mean(_share(right, true), true > 0)


def macro_f1(tables: Floats) -> Floats:
    """Mean F1 over the classes that are there or are predicted."""
    right, true, said = _sums(tables)
    return _mean(_share(2 * right, true + said), true + said > 0)


def _dice(tables: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """2 TP / (2 TP + FP + FN) of each class, 1 of one that does not occur; and which classes occur."""
    right, true, said = _sums(tables)
    return _share(2 * right, true + said, 1.0), true + said > 0


def _iou(tables: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """TP / (TP + FP + FN) of each class, 1 of one that does not occur; and which classes occur."""
    right, true, said = _sums(tables)
    return _share(right, true + said - right, 1.0), true + said > 0


FROM_COUNTS: dict[str, Callable[[Floats], Floats]] = {
    "mcc": mcc,
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "dice": lambda tables: _mean(*_dice(tables)),
    "iou": lambda tables: _mean(*_iou(tables)),
}
"""Metrics that confusion matrices give: (..., classes, classes) -> (...)."""

OF_ONE_LOGIT = FROM_COUNTS | {
    "dice": lambda tables: _dice(tables)[0][..., 1],
    "iou": lambda tables: _iou(tables)[0][..., 1],
}
"""The same where one logit says yes or no: an overlap is then that of the yes."""
