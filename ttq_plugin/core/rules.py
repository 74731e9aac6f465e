"""The equations of the ternary methods, one function each.

Notation (all of it torch, no framework above it): ``w`` is a layer's latent weight of any shape. Statistics are taken
over ``dims``: ``None`` for the whole layer (statistics are scalars, group shape ``()``) or all dimensions but the
channel's (group shape like ``(C, 1, 1, 1)``). Every threshold rule returns the two distances from zero stacked as
``D = (D_min, D_max)``, shape ``(2, *group)``: a weight is positive iff ``w > D_max``, negative iff ``w < -D_min``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ttq_plugin.errors import InputError

Dims = tuple[int, ...] | None
SMALLEST = 1e-8
"""Lower bound of a learned threshold or scale: pTTQ clamps its thresholds here after each step."""


def full_precision(w: Tensor) -> Tensor:
    """``w`` in float32 at least, so that equal stored values decide equally in every dtype."""
    return w.float() if w.dtype in (torch.float16, torch.bfloat16) else w


def total(x: Tensor, dims: Dims) -> Tensor:
    """The sum of ``x`` over ``dims``, of the group's shape."""
    return x.sum() if dims is None else x.sum(dim=dims, keepdim=True)


def largest(x: Tensor, dims: Dims) -> Tensor:
    """The largest value of ``x`` over ``dims``, of the group's shape."""
    return x.amax() if dims is None else x.amax(dim=dims, keepdim=True)


class Statistics:
    """What the threshold rules know of a layer, each computed at most once, none of it differentiable.

    Attributes:
        w: the latent weight, detached, float32 at least.
        dims: the dimensions that one group spans.
    """

    def __init__(self, w: Tensor, dims: Dims) -> None:
        self.w = full_precision(w.detach())
        self.dims = dims

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and unbiased standard deviation, each of the group's shape."""
        if self.dims is None:
            sigma, mu = torch.std_mean(self.w)
        else:
            sigma, mu = torch.std_mean(self.w, dim=self.dims, keepdim=True)
        return mu, sigma

    @cached_property
    def absmax(self) -> Tensor:
        """``max|w|``, of the group's shape."""
        return largest(self.w.abs(), self.dims)

    @cached_property
    def peaks(self) -> Tensor:
        """How far the weights reach on either side of zero, ``(max(-w), max(w))``, shape (2, *group)."""
        return torch.stack((largest(-self.w, self.dims), largest(self.w, self.dims)))


# Thresholds ----------------------------------------------------------------------------------------------------------


def max_fraction(s: Statistics, t: Tensor) -> Tensor:
    """TTQ (Zhu et al. 2017): ``D = t max|w|`` for both signs; t (1, *group) -> (2, *group)."""
    return (t * s.absmax).expand(2, *t.shape[1:])


def invert_max_fraction(s: Statistics, distances: Tensor) -> Tensor:
    """The one ``t`` at which TTQ's distance is the smaller of ``distances``; (2, *group) -> (1, *group)."""
    return (distances.amin(dim=0) / s.absmax).unsqueeze(0)


def signed_moments(s: Statistics, t: Tensor) -> Tensor:
    """Distances of aTTQ: positive above ``mu + t_max sigma``, negative below ``mu + t_min sigma``; t (2, *group)."""
    mu, sigma = s.moments
    bounds = mu + t * sigma
    return torch.stack((-bounds[0], bounds[1]))


def invert_signed_moments(s: Statistics, distances: Tensor) -> Tensor:
    """``(t_min, t_max)`` at which aTTQ's distances are ``distances``; (2, *group) -> (2, *group)."""
    mu, sigma = s.moments
    return torch.stack(((-distances[0] - mu) / sigma, (distances[1] - mu) / sigma))


def absolute_moments(s: Statistics, t: Tensor) -> Tensor:
    """Distances of pTTQ (Vindas et al. 2024): ``D = |mu + t sigma|``; t (2, *group) -> (2, *group), differentiable."""
    mu, sigma = s.moments
    return torch.addcmul(mu, t, sigma).abs()


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
class ThresholdRule:
    """How a method's thresholds follow from its numbers ``t``: the equation, its inverse, and what ``t`` may be.

    Attributes:
        names: the numbers' names, in the order in which they are stacked.
        distances: ``(statistics, t) -> D``, see the module's notation.
        invert: ``(statistics, D) -> t``, used to clip a threshold that would empty a sign.
        check: raises InputError for values that the method does not allow.
    """

    names: tuple[str, ...]
    distances: Callable[[Statistics, Tensor], Tensor]
    invert: Callable[[Statistics, Tensor], Tensor]
    check: Callable[[dict[str, float]], None]


MAX_FRACTION = ThresholdRule(("t",), max_fraction, invert_max_fraction, _check_ttq)
SIGNED_MOMENTS = ThresholdRule(("t_min", "t_max"), signed_moments, invert_signed_moments, _check_attq)
ABSOLUTE_MOMENTS = ThresholdRule(("t_min", "t_max"), absolute_moments, invert_absolute_moments, _check_pttq)


# Scales --------------------------------------------------------------------------------------------------------------


def kept_mean(w: Tensor, positive: Tensor, negative: Tensor, dims: Dims) -> Tensor:
    """``E|w|`` over the kept weights of each sign, ``(W_p, W_n)``, shape (2, *group): the least-squares scales."""
    magnitude = w.abs()
    zero = torch.zeros((), dtype=w.dtype, device=w.device)
    means = [
        total(torch.where(kept, magnitude, zero), dims) / total(kept.to(w.dtype), dims).clamp_min(1)
        for kept in (positive, negative)
    ]
    return torch.stack(means)


def unit(w: Tensor, positive: Tensor, negative: Tensor, dims: Dims) -> Tensor:
    """``W_p = W_n = 1``, the papers' initialisation, shape (2, *group)."""
    return torch.ones_like(kept_mean(w, positive, negative, dims))


SCALE_INITS = {"kept": kept_mean, "one": unit}


# Surrogate gradients of the ternary step -----------------------------------------------------------------------------


def soft_step_gradients(
    w: Tensor, distances: Tensor, slope: Tensor, scales: Tensor, g: Tensor, dims: Dims
) -> tuple[Tensor, Tensor]:
    """Chain rule through ``q = W_p S(s (w - D_max)) - W_n S(s (-w - D_min))``, S the logistic sigmoid, s the slope.

    Args:
        w: latent weight.
        distances: ``(D_min, D_max)``, shape (2, *group).
        slope: ``s = alpha / sigma``, in 1 / units of w, of the group's shape.
        scales: ``(W_p, W_n)``, shape (2, *group).
        g: dL/dq, the gradient that reached the ternary weight, of w's shape.
        dims: the dimensions that one group spans.

    Returns:
        dL/dD, shape (2, *group), and dL/ds, of the group's shape.
    """
    above, below = w - distances[1], -w - distances[0]
    up = torch.sigmoid(slope * above)
    down = torch.sigmoid(slope * below)
    up = up.mul_(1 - up).mul_(g)
    down = down.mul_(1 - down).mul_(g)
    d_max = -scales[0] * slope * total(up, dims)
    d_min = scales[1] * slope * total(down, dims)
    d_slope = scales[0] * total(up * above, dims) - scales[1] * total(down * below, dims)
    return torch.stack((d_min, d_max)), d_slope


SURROGATES = {"soft": soft_step_gradients}
