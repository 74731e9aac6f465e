"""Threshold rules of the methods other than TTQ, aTTQ and pTTQ: TWN, the binary method, and pTTQ's ablations."""

from __future__ import annotations

import torch
from torch import Tensor

from ttq_plugin.core.rules import (
    SMALLEST,
    Shift,
    ThresholdRule,
    absolute_moments,
    invert_absolute_moments,
    lowest_absolute_moments,
    no_distance,
    one_each,
    one_sigma,
    unfolded_moments,
)
from ttq_plugin.core.statistics import Pair, Statistics, Value, copysign
from ttq_plugin.errors import InputError


def mean_fraction(s: Statistics, t: tuple[Value, ...]) -> Pair:
    """TWN (Li & Liu 2016): ``D = t E|w|`` for both signs; t has one value."""
    size = s.w.abs()
    mean = s.value(size.mean() if s.dims is None else size.mean(dim=s.dims, keepdim=True))
    return t[0] * mean, t[0] * mean


def invert_mean_fraction(s: Statistics, distances: Tensor) -> Tensor:
    """The one ``t`` at which TWN's distance is the smaller of ``distances``; (2, *group) -> (1, *group)."""
    unit, _ = mean_fraction(s, (1.0,))
    return (distances.amin(dim=0) / unit).unsqueeze(0)


def no_thresholds(s: Statistics, t: tuple[Value, ...]) -> Pair:
    """The binary method has no dead zone: both distances are 0."""
    return no_distance(s)


def direct(s: Statistics, t: tuple[Value, ...]) -> Pair:
    """pttq-absolute: ``D = t`` itself, without statistics of the weights, in the weights' units."""
    return t[0], t[1]


def start_direct(s: Statistics, t: Tensor) -> Tensor:
    """Initial distances of pttq-absolute: those of pTTQ at these numbers; (2, *group) -> (2, *group)."""
    return s.stack(absolute_moments(s, t.unbind(0)))


def pull_back_direct(s: Statistics, t: tuple[Value, ...], d_distances: Pair) -> tuple[Value, ...]:
    """``dL/dt = dL/dD``."""
    return d_distances


def tied(s: Statistics, t: tuple[Value, ...]) -> Pair:
    """pttq-symmetric (after Manessi et al. 2018): one ``D = |mu + t sigma|`` for both signs."""
    distance, _ = absolute_moments(s, (t[0], t[0]))
    return distance, distance


def unfolded_tied(s: Statistics, t: tuple[Value, ...]) -> Pair:
    """The same without the absolute value, ``mu + t sigma`` for both signs."""
    return unfolded_moments(s, (t[0], t[0]))


def mean_size(s: Statistics) -> Value:
    """The mean absolute weight."""
    return mean_fraction(s, (1.0,))[0]


def sigma_twice(s: Statistics) -> tuple[Value, ...]:
    """Both numbers are distances: they grow by a standard deviation a unit."""
    return one_sigma(s), one_sigma(s)


def invert_tied(s: Statistics, distances: Tensor) -> Tensor:
    """The one ``t`` at which the tied distance is the smaller of ``distances``; (2, *group) -> (1, *group)."""
    return invert_absolute_moments(s, distances).amin(dim=0, keepdim=True)


def pull_back_tied(s: Statistics, t: tuple[Value, ...], d_distances: Pair) -> tuple[Value, ...]:
    """Both distances move with the one ``t``: ``dL/dt = (dL/dD_min + dL/dD_max) sigma sign(mu + t sigma)``."""
    mu, sigma = s.moments
    return ((d_distances[0] + d_distances[1]) * copysign(sigma, mu + t[0] * sigma),)


def _check_positive(values: dict[str, float]) -> None:
    for name, value in values.items():
        if value < 0:
            raise InputError(f"{name} must not be negative, got {value:g}.")


def _identity(s: Statistics, distances: Tensor) -> Tensor:
    return distances.clamp_min(SMALLEST)


def _nothing(s: Statistics, distances: Tensor) -> Tensor:
    return torch.empty(0, *distances.shape[1:], dtype=distances.dtype, device=distances.device)


MEAN_FRACTION = ThresholdRule(
    names=("t",),
    distances=mean_fraction,
    invert=invert_mean_fraction,
    check=_check_positive,
    shift=Shift(mean_fraction, mean_size, no_distance, one_each),
)
NO_THRESHOLDS = ThresholdRule((), no_thresholds, _nothing, _check_positive)
DIRECT = ThresholdRule(
    names=("t_min", "t_max"),
    distances=direct,
    invert=_identity,
    check=_check_positive,
    pull_back=pull_back_direct,
    start=start_direct,
    native=3,
    shift=Shift(direct, one_sigma, no_distance, sigma_twice),
)
TIED = ThresholdRule(
    names=("t",),
    distances=tied,
    invert=invert_tied,
    check=_check_positive,
    pull_back=pull_back_tied,
    native=4,
    shift=Shift(unfolded_tied, one_sigma, lowest_absolute_moments, one_each),
)
