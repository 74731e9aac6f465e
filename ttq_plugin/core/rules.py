"""The equations of the ternary methods, one function each.

Statistics, groups and values are those of ``core.statistics``. Distances ``(D_min, D_max)`` lie on the two sides of
zero: a weight is positive if ``w > D_max``, and negative if ``w < -D_min``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ttq_plugin.core.statistics import Dims, Pair, Statistics, Value, absolute, copysign, total
from ttq_plugin.errors import InputError

SMALLEST = 1e-8
"""Lower bound of a learned threshold or scale: pTTQ clamps its thresholds here after each step."""


# Thresholds ----------------------------------------------------------------------------------------------------------


def max_fraction(s: Statistics, t: tuple[Value, ...]) -> Pair:
    """TTQ (Zhu et al. 2017): ``D = t max|w|`` for both signs; t has one value."""
    delta = t[0] * s.absmax
    return delta, delta


def invert_max_fraction(s: Statistics, distances: Tensor) -> Tensor:
    """The one ``t`` at which TTQ's distance is the smaller of ``distances``; (2, *group) -> (1, *group)."""
    return (distances.amin(dim=0) / s.absmax).unsqueeze(0)


def signed_moments(s: Statistics, t: tuple[Value, ...]) -> Pair:
    """Distances of aTTQ: positive above ``mu + t_max sigma``, negative below ``mu + t_min sigma``."""
    mu, sigma = s.moments
    return -(mu + t[0] * sigma), mu + t[1] * sigma


def invert_signed_moments(s: Statistics, distances: Tensor) -> Tensor:
    """``(t_min, t_max)`` at which aTTQ's distances are ``distances``; (2, *group) -> (2, *group)."""
    mu, sigma = s.moments
    return torch.stack(((-distances[0] - mu) / sigma, (distances[1] - mu) / sigma))


def absolute_moments(s: Statistics, t: tuple[Value, ...]) -> Pair:
    """Distances of pTTQ (Vindas et al. 2024): ``D = |mu + t sigma|``."""
    mu, sigma = s.moments
    low, high = (mu + x * sigma for x in t)
    return absolute(low), absolute(high)


def pull_back_absolute_moments(s: Statistics, t: tuple[Value, ...], d_distances: Pair) -> tuple[Value, ...]:
    """``dL/dt = dL/dD dD/dt`` with ``dD/dt = sigma sign(mu + t sigma)``."""
    mu, sigma = s.moments
    return tuple(d * copysign(sigma, mu + x * sigma) for d, x in zip(d_distances, t, strict=True))


def invert_absolute_moments(s: Statistics, distances: Tensor) -> Tensor:
    """``(t_min, t_max)``, at least 1e-8, at which pTTQ's distances are ``distances``; (2, *group) -> (2, *group)."""
    mu, sigma = s.moments
    return ((distances - mu) / sigma).clamp_min(SMALLEST)


def _check_ttq(values: dict[str, float]) -> None:
    if not 0 < values["t"] < 1:
        raise InputError(f"t must lie in (0, 1), got {values['t']:g}; TTQ uses 0.05.")


def _check_attq(values: dict[str, float]) -> None:
    if not values["t_min"] <= values["t_max"]:
        raise InputError(
            f"t_min must not exceed t_max, got t_min = {values['t_min']:g} and t_max = {values['t_max']:g}; "
            "aTTQ uses for example -1 and 0.5."
        )


def _check_pttq(values: dict[str, float]) -> None:
    for name, value in values.items():
        if value < 0:
            raise InputError(f"{name} must not be negative, got {value:g}; pTTQ uses for example 1.")


@dataclass(frozen=True)
class Shift:
    """How a rule's numbers move when every distance of a layer grows by the same number of units.

    Attributes:
        distances: ``(statistics, t) -> (D_min, D_max)``, continued below zero where the rule takes an absolute value.
        unit: ``statistics -> one unit``, in which the weights' distances to the thresholds are compared across layers.
        lowest: ``statistics -> (D_min, D_max)`` that no number of the rule gets below.
        per_unit: ``statistics -> change of each t`` when the distances grow by one unit.
    """

    distances: Callable[[Statistics, tuple[Value, ...]], Pair]
    unit: Callable[[Statistics], Value]
    lowest: Callable[[Statistics], Pair]
    per_unit: Callable[[Statistics], tuple[Value, ...]]


def one_sigma(s: Statistics) -> Value:
    """The weights' standard deviation."""
    return s.moments[1]


# Functions with names, here and below: a wrapped model is pickled with its method, and a lambda cannot be.


def largest(s: Statistics) -> Value:
    """The largest absolute weight."""
    return s.absmax


def one_each(s: Statistics) -> tuple[Value, ...]:
    """A single number grows by as much as the distances do."""
    return (1.0,)


def one_each_twice(s: Statistics) -> tuple[Value, ...]:
    """Both numbers grow by as much as the distances do."""
    return 1.0, 1.0


def apart(s: Statistics) -> tuple[Value, ...]:
    """The lower threshold's number falls as the upper one's grows."""
    return -1.0, 1.0


def no_distance(s: Statistics) -> Pair:
    """Thresholds that can come down to zero."""
    zero = s.absmax * 0.0
    return zero, zero


def unfolded_moments(s: Statistics, t: tuple[Value, ...]) -> Pair:
    """Distances of pTTQ without the absolute value, ``mu + t sigma``."""
    mu, sigma = s.moments
    return mu + t[0] * sigma, mu + t[1] * sigma


def lowest_absolute_moments(s: Statistics) -> Pair:
    """PTTQ's numbers are not negative, so that its distances stay at or above the mean."""
    mu = s.moments[0]
    low: Value = mu.clamp_min(0) if isinstance(mu, Tensor) else max(mu, 0.0)
    return low, low


def lowest_signed_moments(s: Statistics) -> Pair:
    """ATTQ's thresholds meet at the mean."""
    mu = s.moments[0]
    return -mu, mu


@dataclass(frozen=True)
class ThresholdRule:
    """How a method's thresholds follow from its numbers ``t``: the equation, its inverse, and what ``t`` may be.

    Attributes:
        names: The numbers' names, in the order in which they are stacked.
        distances: ``(statistics, t) -> (D_min, D_max)``.
        invert: ``(statistics, D) -> t`` on stacked tensors, used to clip a threshold that would empty a sign.
        check: Raises InputError for values that the method does not allow.
        pull_back: ``(statistics, t, dL/dD) -> dL/dt``, for rules whose thresholds can learn.
        start: ``(statistics, numbers) -> t``, for rules whose ``t`` is something else than the numbers it begins from.
        native: The rule's number in ``native/training.c``, for rules of the ternary step with learned scales.
        shift: How the numbers move together, for rules that can meet a prescribed share of zeros.
    """

    names: tuple[str, ...]
    distances: Callable[[Statistics, tuple[Value, ...]], Pair]
    invert: Callable[[Statistics, Tensor], Tensor]
    check: Callable[[dict[str, float]], None]
    pull_back: Callable[[Statistics, tuple[Value, ...], Pair], tuple[Value, ...]] | None = None
    start: Callable[[Statistics, Tensor], Tensor] | None = None
    native: int | None = None
    shift: Shift | None = None


MAX_FRACTION = ThresholdRule(
    names=("t",),
    distances=max_fraction,
    invert=invert_max_fraction,
    check=_check_ttq,
    native=0,
    shift=Shift(max_fraction, largest, no_distance, one_each),
)
SIGNED_MOMENTS = ThresholdRule(
    names=("t_min", "t_max"),
    distances=signed_moments,
    invert=invert_signed_moments,
    check=_check_attq,
    native=1,
    shift=Shift(signed_moments, one_sigma, lowest_signed_moments, apart),
)
ABSOLUTE_MOMENTS = ThresholdRule(
    names=("t_min", "t_max"),
    distances=absolute_moments,
    invert=invert_absolute_moments,
    check=_check_pttq,
    pull_back=pull_back_absolute_moments,
    native=2,
    shift=Shift(unfolded_moments, one_sigma, lowest_absolute_moments, one_each_twice),
)


# Scales --------------------------------------------------------------------------------------------------------------


def kept_mean(w: Tensor, positive: Tensor, negative: Tensor, dims: Dims) -> Tensor:
    """``E|w|`` over the kept weights of each sign, ``(W_p, W_n)``, shape (2, *group): the least-squares scales."""
    magnitude = w.abs()
    means = [total(magnitude * kept, dims) / total(kept, dims).clamp_min(1) for kept in (positive, negative)]
    return torch.stack(means)


def unit(w: Tensor, positive: Tensor, negative: Tensor, dims: Dims) -> Tensor:
    """``W_p = W_n = 1``, the papers' initialisation, shape (2, *group)."""
    return torch.ones_like(kept_mean(w, positive, negative, dims))


SCALE_INITS = {"kept": kept_mean, "one": unit}
