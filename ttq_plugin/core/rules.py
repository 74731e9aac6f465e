"""The equations of the ternary methods, one function each.

Notation: ``w`` is a layer's latent weight of any shape. A group is what shares scales and thresholds: the layer
(``dims`` is None) or a channel (``dims`` are all dimensions but the channel's). A ``Value`` is one number a group: a
float for a layer on the CPU, where a tensor of one number would cost as much as a small layer, else a tensor of the
group's shape, ``()`` or like ``(C, 1, 1, 1)``. Distances ``(D_min, D_max)`` lie at zero's sides: positive iff
``w > D_max``, negative iff ``w < -D_min``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ttq_plugin.errors import InputError
from ttq_plugin.native.groups import group_kernels_for
from ttq_plugin.native.training import kernels_for

Dims = tuple[int, ...] | None
Value = float | Tensor
Pair = tuple[Value, Value]

SMALLEST = 1e-8
"""Lower bound of a learned threshold or scale: pTTQ clamps its thresholds here after each step."""


def full_precision(w: Tensor) -> Tensor:
    """``w`` in float32 at least, so that equal stored values decide equally in every dtype."""
    return w.float() if w.dtype in (torch.float16, torch.bfloat16) else w


def total(x: Tensor, dims: Dims) -> Tensor:
    """The sum of ``x`` over ``dims``, of the group's shape."""
    return x.sum() if dims is None else x.sum(dim=dims, keepdim=True)


def copysign(size: Value, sign: Value) -> Value:
    """``|size|`` with the sign of ``sign``."""
    if isinstance(size, Tensor) and isinstance(sign, Tensor):
        return torch.copysign(size, sign)
    return math.copysign(float(size), float(sign))


def absolute(x: Value) -> Value:
    """``|x|``."""
    return x.abs() if isinstance(x, Tensor) else abs(x)


class Statistics:
    """What the threshold rules know of a layer, each computed at most once, none of it differentiable.

    Attributes:
        latent: the latent weight as it came.
        dims: the dimensions that one group spans.
        divided_by: what the weight is divided by here, if it is.
        numbers: whether values are floats; a GPU would have to wait for each, and a compiled graph would break.
        kernels: the native kernels, where they can take the weight.
        groups: those of groups whose values are tensors, likewise.
    """

    divided_by: Value | None = None
    # No functools.cached_property: torch.compile cannot trace its lock.
    _w: Tensor | None = None
    _moments: Pair | None = None
    _peaks: Pair | None = None

    def __init__(self, w: Tensor, dims: Dims, numbers: bool | None = None) -> None:
        self.latent, self.dims = w, dims
        self.kernels = kernels_for(w) if dims is None and numbers is None else None
        self.channel = None if dims is None else next(d for d in range(w.dim()) if d not in dims)
        self.groups = group_kernels_for(self.channel, w) if numbers is None else None
        if numbers is None:
            numbers = self.kernels is not None or (dims is None and w.is_cpu and not torch.compiler.is_compiling())
        self.numbers = numbers

    @property
    def w(self) -> Tensor:
        """The (divided) latent weight, detached, float32 at least."""
        if self._w is None:
            w = full_precision(self.latent.detach())
            self._w = w if self.divided_by is None else w / self.divided_by
        return self._w

    def normalise_(self) -> None:
        """Be the statistics of ``w / max|w|`` from now on."""
        if self.kernels is None:
            self.divided_by, self._peaks, self._w = self.absmax, None, None
        else:
            low, high, divided_low, divided_high = self.kernels.peaks(self.latent)
            self.divided_by, self._peaks = max(-low, high), (-divided_low, divided_high)

    def value(self, x: Tensor) -> Value:
        """One number a group, as a float where values are floats."""
        return x.item() if self.numbers else x

    def values(self, x: Tensor) -> tuple[Value, ...]:
        """The rows of a stacked parameter, shape (k, *group)."""
        return tuple(x.tolist()) if self.numbers else x.unbind(0)

    def stack(self, values: tuple[Value, ...]) -> Tensor:
        """The reverse of ``values``, in w's dtype."""
        if self.kernels is not None:
            return self.kernels.stack(values)  # type: ignore[arg-type]
        if self.numbers:
            return torch.tensor(values, dtype=self.w.dtype)
        return torch.stack([torch.as_tensor(value) for value in values])

    @property
    def moments(self) -> Pair:
        """Mean and unbiased standard deviation."""
        if self._moments is None:
            self._moments = self._find_moments()
        return self._moments

    @property
    def peaks(self) -> Pair:
        """How far the weights reach on either side of zero, ``(max(-w), max(w))``."""
        if self._peaks is None:
            self._peaks = self._find_peaks()
        return self._peaks

    @property
    def absmax(self) -> Value:
        """``max|w|``."""
        low, high = self.peaks
        return torch.maximum(low, high) if isinstance(low, Tensor) and isinstance(high, Tensor) else max(low, high)

    def _find_moments(self) -> Pair:
        if self.kernels is not None:
            mean, root = self.kernels.moments(self.latent, self.divided_by)  # type: ignore[arg-type]
            return mean, root * (self.latent.numel() - 1) ** -0.5
        if self.groups is not None:
            return self.groups.moments(self.w, self.channel)
        # Two passes in plain vector operations: several times faster than torch.std_mean on the CPU, and as exact.
        mu = self.w.mean() if self.dims is None else self.w.mean(dim=self.dims, keepdim=True)
        norm = torch.linalg.vector_norm(self.w - mu, dim=self.dims, keepdim=self.dims is not None)
        return self.value(mu), self.value(norm) * (self.w.numel() // mu.numel() - 1) ** -0.5

    def _find_peaks(self) -> Pair:
        if self.kernels is not None and self.divided_by is None:
            least, largest, *_ = self.kernels.peaks(self.latent)
            return -least, largest
        if self.dims is None:
            low, high = torch.aminmax(self.w)
        else:
            low, high = self.w.amin(dim=self.dims, keepdim=True), self.w.amax(dim=self.dims, keepdim=True)
        return -self.value(low), self.value(high)


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
        names: the numbers' names, in the order in which they are stacked.
        distances: ``(statistics, t) -> (D_min, D_max)``.
        invert: ``(statistics, D) -> t`` on stacked tensors, used to clip a threshold that would empty a sign.
        check: raises InputError for values that the method does not allow.
        pull_back: ``(statistics, t, dL/dD) -> dL/dt``, for rules whose thresholds can learn.
        start: ``(statistics, numbers) -> t``, for rules whose ``t`` is something else than the numbers it begins from.
        native: the rule's number in ``native/training.c``, for rules of the ternary step with learned scales.
        shift: how the numbers move together, for rules that can meet a prescribed share of zeros.
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
