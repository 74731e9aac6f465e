"""Tests whether a compressed model is worse than full precision by less than a margin."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ttq_plugin.errors import InputError
from ttq_plugin.statistics import LEVEL
from ttq_plugin.statistics.resampling import Interval, check_level

SIGNIFICANCE = 0.05
"""Significance level: the largest share of models worse by the margin that are called non-inferior."""

Key = TypeVar("Key")


@dataclass(frozen=True)
class Verdict:
    """The result of a non-inferiority test.

    Attributes:
        margin: The largest loss that would not matter, in the metric's unit.
        p: One-sided p-value of "worse by the margin or more".
        adjusted: The same after Holm's correction for the models that were tested together.
        holds: Whether the model is shown to be non-inferior.
    """

    margin: float
    p: float
    adjusted: float
    holds: bool


def p_inferior(found: Interval, margin: float, *, higher: bool = True) -> float:
    """The p-value against "worse by the margin or more": Student's t on the change, one-sided.

    Few predictions differ between a model and its compression, so by chance a worse model may show both a small loss
    and a small spread, and a plain t-test then calls it non-inferior in up to 11 % of the cases. A model that is worse
    by the margin must get some more predictions wrong, and their number has a spread of its own (as in Tango 1998);
    half of that variance is added to the estimated one. Simulated for 3 to 20 people, the test then errs in 0 to 5.6 %
    of the cases.

    Args:
        found: The change from full precision, with its standard error.
        margin: The largest loss that would not matter, above 0, in the metric's unit.
        higher: Whether a higher score is better.

    Returns:
        The p-value.

    Raises:
        InputError: For a margin that is not above 0, or a change that is not finite.

    Examples:
        >>> from ttq_plugin.statistics.resampling import Interval
        >>> p_inferior(Interval(0.0, 0.004, -0.009, 0.009, 10, True), 0.01) < 0.05
        True
    """
    from scipy.stats import t

    if not (math.isfinite(margin) and margin > 0):
        raise InputError(f"A margin must be above 0, got {margin}; it is the largest loss that would not matter.")
    if not (math.isfinite(found.value) and math.isfinite(found.error)):
        raise InputError(f"A change must be finite, with a finite error, got {found.value} and {found.error}.")
    room = margin + (found.value if higher else -found.value)
    error = math.sqrt(found.error**2 + margin * found.grain / 2)
    if error == 0:
        return 0.0 if room > 0 else 1.0
    return float(t.sf(room / error, found.units - 1))


def holm(values: Sequence[float]) -> list[float]:
    """P-values adjusted for testing several hypotheses at once (Holm 1979).

    Args:
        values: The single tests' p-values.

    Returns:
        The adjusted ones, in the same order.

    Raises:
        InputError: If one does not lie in [0, 1].

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    if wrong := [value for value in values if not 0 <= value <= 1]:
        raise InputError(f"A p-value must lie in [0, 1], got {wrong[0]}.")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = largest
    return [float(value) for value in adjusted]


def verdicts(changes: Mapping[Key, Interval], margin: float, *, higher: bool = True) -> dict[Key, Verdict]:
    """Test several models against one full-precision model.

    Args:
        changes: The changes of each model, from full precision.
        margin: The largest loss that would not matter, above 0, in the metric's unit.
        higher: Whether a higher score is better.

    Returns:
        A verdict for each model, corrected for their number.

    Raises:
        InputError: For a margin that is not above 0, or a change that is not finite.
    """  # noqa: DOC502 - raised by what it calls
    single = {key: p_inferior(found, margin, higher=higher) for key, found in changes.items()}
    adjusted = dict(zip(single, holm(list(single.values())), strict=True))
    return {key: Verdict(margin, p, adjusted[key], adjusted[key] <= SIGNIFICANCE) for key, p in single.items()}


def corrected_t(differences: Sequence[float], test_share: float, *, level: float = LEVEL) -> Interval:
    """Mean difference over repetitions whose training data overlap: the corrected resampled t-test.

    Repetitions on random splits of one data set share samples, so the usual standard error of their mean is too small;
    its variance is taken times ``1/n + test/train`` instead of ``1/n`` (Nadeau & Bengio 2003, Inference for the
    generalization error).

    Args:
        differences: One for each repetition, at least two.
        test_share: Share of the samples that a repetition tests on, in (0, 1); it trains on the others.
        level: Confidence level, in (0, 1).

    Returns:
        The mean with its interval; its units are the repetitions.

    Raises:
        InputError: For fewer than two repetitions, a difference that is not finite, or a share or level outside (0, 1).
    """
    from scipy.stats import t

    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        raise InputError(f"A test over repetitions needs at least 2 of them, got {len(values)}.")
    if not np.isfinite(values).all():
        raise InputError(f"The differences of all repetitions must be finite, got {list(differences)}.")
    if not 0 < test_share < 1:
        raise InputError(f"The share of test samples must lie in (0, 1), got {test_share}.")
    check_level(level)
    n = len(values)
    error = float(values.std(ddof=1) * math.sqrt(1 / n + test_share / (1 - test_share)))
    half = float(t.ppf((1 + level) / 2, n - 1)) * error
    middle = float(values.mean())
    return Interval(middle, error, middle - half, middle + half, n, False, level)
