"""The ways from a latent weight to the one that is used: the ternary step, and those of methods that differ in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ttq_plugin.core.contract import Params, StepOptions
from ttq_plugin.core.statistics import Dims, full_precision, total
from ttq_plugin.core.ternary_step import decide, ternary_step


@dataclass(frozen=True)
class Step:
    """How a method makes the weight that is used.

    Attributes:
        weights: ``(w, params, method) -> q``, differentiable.
        codes: ``(w, params, method) -> int8 signs of q``.
        scales: ``(w, params, method) -> (W_p, W_n)`` stacked, as q has them.
        channels: Whether a channel can have scales and thresholds of its own.
        compares: Whether its zeros are the weights between the two distances.
    """

    weights: Callable[[Tensor, Params, StepOptions], Tensor]
    codes: Callable[[Tensor, Params, StepOptions], Tensor]
    scales: Callable[[Tensor, Params, StepOptions], Tensor]
    channels: bool = True
    compares: bool = True


class StraightThrough(torch.autograd.Function):
    """``q`` forward, the identity to ``w`` backward."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, q: Tensor) -> Tensor:  # noqa: D102 - torch's name
        return q.to(w.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102 - torch's name
        return grads[0], None


def _masks(w: Tensor, params: Params, method: StepOptions) -> tuple[Tensor, Tensor]:
    s = method.latent(w)
    return decide(s.w, method.rule.distances(s, s.values(params["thresholds"])))


def ternary_weights(w: Tensor, params: Params, method: StepOptions) -> Tensor:
    """The ternary step with learned scales, see ``step.TernaryStep``."""
    return ternary_step(w, params["scales"], params["thresholds"], params["alpha"], method)


@torch.no_grad()
def ternary_codes(w: Tensor, params: Params, method: StepOptions) -> Tensor:
    """Signs by comparison with the two distances."""
    positive, negative = _masks(w, params, method)
    return (positive - negative).to(torch.int8)


def learned_scales(w: Tensor, params: Params, method: StepOptions) -> Tensor:
    """The scales as they were learned."""
    return params["scales"]


@torch.no_grad()
def kept_scale(w: Tensor, params: Params, method: StepOptions) -> Tensor:
    """TWN (Li & Liu 2016): one scale, ``E(|w| : |w| > D)``, for both signs; (2, *group)."""
    positive, negative = _masks(w, params, method)
    kept, dims = positive.add_(negative), method.dims(w)
    scale = total(full_precision(w).abs() * kept, dims) / total(kept, dims).clamp_min(1)
    return torch.stack((scale, scale))


def twn_weights(w: Tensor, params: Params, method: StepOptions) -> Tensor:
    """TWN: its codes times its scale, both computed from w; the gradient is passed straight through."""
    with torch.no_grad():
        scale = kept_scale(w, params, method)[0]
        q = ternary_codes(w, params, method) * scale
    return straight_through(w, q)


@torch.no_grad()
def binary_codes(w: Tensor, params: Params, method: StepOptions) -> Tensor:
    """DoReFa at one bit: 1 where ``w >= 0``, else -1."""
    return torch.where(full_precision(w) >= 0, 1, -1).to(torch.int8)


@torch.no_grad()
def mean_scale(w: Tensor, params: Params, method: StepOptions) -> Tensor:
    """DoReFa at one bit (Zhou et al. 2016): one scale, ``E|w|``; (2, *group)."""
    size, dims = full_precision(w).abs(), method.dims(w)
    scale = _mean(size, dims)
    return torch.stack((scale, scale))


def binary_weights(w: Tensor, params: Params, method: StepOptions) -> Tensor:
    """DoReFa at one bit: ``E|w| sign(w)``, the gradient straight through."""
    with torch.no_grad():
        q = binary_codes(w, params, method) * mean_scale(w, params, method)[0]
    return straight_through(w, q)


def straight_through(w: Tensor, q: Tensor) -> Tensor:
    """``q``, whose gradient goes to ``w`` unchanged."""
    result: Tensor = StraightThrough.apply(w, q)  # type: ignore[no-untyped-call]
    return result


def _mean(x: Tensor, dims: Dims) -> Tensor:
    return x.mean() if dims is None else x.mean(dim=dims, keepdim=True)


TERNARY = Step(ternary_weights, ternary_codes, learned_scales)
TWN = Step(twn_weights, ternary_codes, kept_scale)
BINARY = Step(binary_weights, binary_codes, mean_scale, compares=False)
