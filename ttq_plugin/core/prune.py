"""The dead zone as a mask: what is left of a ternary method when the kept weights stay as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ttq_plugin.core.contract import Params, StepOptions
from ttq_plugin.core.statistics import full_precision
from ttq_plugin.core.surrogates import SURROGATES
from ttq_plugin.core.ternary_step import decide


class PruneStep(torch.autograd.Function):
    """``p = x`` where the method keeps the weight ``w``, else 0; x is w itself or what another compressor made of it.

    Gradients (g = dL/dp): to x straight through, ``g`` everywhere (or kept weights only with ``dead_zone="zero"``), so
    that a pruned weight can come back; to thresholds by the chain rule through the soft mask
    ``p = x (S(a (w - D_max)) + S(a (-w - D_min)))`` (Manessi et al. 2018 for pruning with learned thresholds).
    """

    @staticmethod
    def forward(  # noqa: D102 - torch's name
        ctx: Any, x: Tensor, w: Tensor, thresholds: Tensor, alpha: Tensor, method: StepOptions
    ) -> Tensor:
        s = method.latent(w)
        t = s.values(thresholds)
        distances = method.rule.distances(s, t)
        positive, negative = decide(s.w, distances)
        kept = positive.add_(negative).to(x.dtype)
        ctx.save_for_backward(x, w, alpha, kept)
        ctx.method, ctx.t, ctx.distances = method, t, distances
        return x * kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102 - torch's name
        x, w, alpha, kept = ctx.saved_tensors
        need_x, _, need_t, need_alpha, _ = ctx.needs_input_grad
        d_t = d_alpha = None
        if need_t or need_alpha:
            s = ctx.method.latent(w)
            sigma = s.moments[1]
            # The soft steps' gradient with scales (1, -1): here the lower step adds x, there it subtracted W_n.
            d_distances, d_slope = SURROGATES[ctx.method.surrogate](
                s, ctx.distances, s.value(alpha) / sigma, (1.0, -1.0), full_precision(g * x), need_alpha
            )
            d_t = s.stack(ctx.method.rule.pull_back(s, ctx.t, d_distances)) if need_t else None
            d_alpha = None if d_slope is None else s.stack((d_slope / sigma,)).reshape(alpha.shape)
        d_x = None
        if need_x:
            d_x = g if ctx.method.dead_zone == "pass" else g * kept
        return d_x, None, d_t, d_alpha, None


def prune(x: Tensor, w: Tensor, params: Params, method: StepOptions) -> Tensor:
    """Zero what the method's dead zone holds.

    Args:
        x: The tensor to prune, of w's shape.
        w: The latent weight that decides.
        params: The method's, as from ``StepOptions.init``.
        method: The ternary method.

    Returns:
        ``x`` where the code of w is not 0, else 0; differentiable in x and in thresholds and alpha.
    """
    result: Tensor = PruneStep.apply(x, w.detach(), params["thresholds"], params["alpha"], method)  # type: ignore[no-untyped-call]
    return result
