"""The ternary step: bit-exact forward, straight-through and chain-rule backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ttq_plugin.core.rules import SURROGATES, Dims, full_precision, total


def decide(w: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """Which weights are positive and which negative, by comparison; two boolean tensors of w's shape."""
    wide = full_precision(w)
    return wide > distances[1], wide < -distances[0]


class TernaryStep(torch.autograd.Function):
    """``q = W_p`` where ``w > D_max``, ``-W_n`` where ``w < -D_min``, else 0.

    Gradients (g = dL/dq): scales as in TTQ (Zhu et al. 2017, eq. 7), ``dL/dW_p = sum of g`` over the positive set and
    ``dL/dW_n = -sum of g`` over the negative one, whose value is ``-W_n``; latent weights straight through, scaled
    (eq. 8): ``W_p g``, ``g`` (or 0 with ``dead_zone="zero"``), ``W_n g``; distances and slope by the chain rule
    through a smooth surrogate of the step (``rules.SURROGATES``).
    """

    @staticmethod
    def forward(  # noqa: D102 - torch's name
        ctx: Any, w: Tensor, scales: Tensor, distances: Tensor, slope: Tensor | None, settings: tuple[str, str, Dims]
    ) -> Tensor:
        positive, negative = decide(w, distances)
        ctx.settings = settings
        ctx.save_for_backward(w, scales, distances, slope)
        zero = torch.zeros((), dtype=w.dtype, device=w.device)
        return torch.where(positive, scales[0].to(w.dtype), torch.where(negative, -scales[1].to(w.dtype), zero))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102 - torch's name
        (g,) = grads
        w, scales, distances, slope = ctx.saved_tensors
        dead_zone, surrogate, dims = ctx.settings
        need_w, need_scales, need_distances, need_slope, _ = ctx.needs_input_grad
        positive, negative = decide(w, distances)
        wide, g_wide = full_precision(w), full_precision(g)
        d_w = d_scales = d_distances = d_slope = None
        if need_w:
            dead = torch.full((), 1.0 if dead_zone == "pass" else 0.0, dtype=g_wide.dtype, device=g.device)
            d_w = (g_wide * torch.where(positive, scales[0], torch.where(negative, scales[1], dead))).to(w.dtype)
        if need_scales:
            d_scales = torch.stack((total(g_wide * positive, dims), -total(g_wide * negative, dims)))
        if slope is not None and (need_distances or need_slope):
            d_distances, d_slope = SURROGATES[surrogate](wide, distances, slope, scales, g_wide, dims)
        return d_w, d_scales, d_distances, d_slope if need_slope else None, None


def ternary_step(
    w: Tensor, scales: Tensor, distances: Tensor, slope: Tensor | None, settings: tuple[str, str, Dims]
) -> Tensor:
    """Apply ``TernaryStep``.

    Args:
        w: latent weight.
        scales: ``(W_p, W_n)``, shape (2, *group).
        distances: ``(D_min, D_max)``, shape (2, *group).
        slope: the surrogate's slope, of the group's shape, or None if no threshold learns.
        settings: dead-zone gradient, surrogate's name, dimensions that one group spans.

    Returns:
        The ternary weight, of w's shape and dtype.
    """
    result: Tensor = TernaryStep.apply(w, scales, distances, slope, settings)  # type: ignore[no-untyped-call]
    return result
