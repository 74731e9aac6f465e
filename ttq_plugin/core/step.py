"""The ternary step: bit-exact forward, straight-through and chain-rule backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ttq_plugin.core.rules import SURROGATES, Pair, Statistics, Value, full_precision, total

if TYPE_CHECKING:
    from ttq_plugin.core.ternarizer import Ternarizer


def decide(w: Tensor, distances: Pair) -> tuple[Tensor, Tensor]:
    """Which weights are positive and which negative, by comparison.

    Written into floating point at once: on the CPU that is twice as fast as booleans, and so is all that follows.

    Args:
        w: latent weight, float32 or float64.
        distances: ``(D_min, D_max)``.

    Returns:
        Two tensors of 1 and 0, of w's shape and dtype.
    """
    positive, negative = torch.empty_like(w), torch.empty_like(w)
    return torch.gt(w, distances[1], out=positive), torch.lt(w, -distances[0], out=negative)


class TernaryStep(torch.autograd.Function):
    """``q = W_p`` where ``w > D_max``, ``-W_n`` where ``w < -D_min``, else 0.

    Gradients (g = dL/dq): scales as in TTQ (Zhu et al. 2017, eq. 7), ``dL/dW_p = sum of g`` over the positive set and
    ``dL/dW_n = -sum of g`` over the negative one, whose value is ``-W_n``; latent weights straight through, scaled
    (eq. 8): ``W_p g``, ``g`` (or 0 with ``dead_zone="zero"``), ``W_n g``; thresholds and alpha by the chain rule
    through a smooth surrogate of the step (``rules.SURROGATES``). All in one function of few passes, because on a
    small layer each further node of the graph costs as much as the arithmetic.
    """

    @staticmethod
    def forward(  # noqa: D102 - torch's name
        ctx: Any, w: Tensor, scales: Tensor, thresholds: Tensor, alpha: Tensor, method: Ternarizer
    ) -> Tensor:
        s = method.latent(w)
        t = s.values(thresholds)
        distances = method.rule.distances(s, t)
        positive, negative = decide(s.w, distances)
        ctx.save_for_backward(w, scales, alpha)
        ctx.method, ctx.divisor, ctx.dtype = method, s.divisor, w.dtype
        ctx.t, ctx.distances, ctx.moments = t, distances, s.moments if method.learns_shape else None
        # Products with 0 and 1 and sums with 0 round nothing: exactly three values.
        w_p, w_n = s.values(scales)
        return _add_product(positive.mul_(w_p), negative, -w_n).to(w.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102 - torch's name
        w, scales, alpha = ctx.saved_tensors
        method, g = ctx.method, full_precision(g)
        s = method.latent(w, ctx.divisor)
        pair = cast(Pair, s.values(scales))
        need_w, need_scales, need_t, need_alpha, _ = ctx.needs_input_grad
        d_w = d_scales = d_t = d_alpha = None
        if need_t or need_alpha:
            d_t, d_alpha = _threshold_gradients(ctx, s, pair, alpha, g, need_alpha)
        positive, negative = decide(s.w, ctx.distances)
        if need_scales:
            d_scales = s.stack((_inner(s, g, positive), -_inner(s, g, negative)))
        if need_w:
            d_w = straight_through(g, positive, negative, pair, method.dead_zone)
            d_w = (d_w if ctx.divisor is None else d_w.div_(ctx.divisor)).to(ctx.dtype)
        return d_w, d_scales, d_t if need_t else None, d_alpha, None


def _threshold_gradients(
    ctx: Any, s: Statistics, scales: Pair, alpha: Tensor, g: Tensor, need_alpha: bool
) -> tuple[Tensor, Tensor | None]:
    method, sigma = ctx.method, ctx.moments[1]
    s.moments = ctx.moments  # known from the forward pass
    slope = s.value(alpha) / sigma
    d_distances, d_slope = SURROGATES[method.surrogate](s, ctx.distances, slope, scales, g, need_alpha)
    d_t = s.stack(method.rule.pull_back(s, ctx.t, d_distances))
    return d_t, None if d_slope is None else s.stack((d_slope / sigma,)).reshape(alpha.shape)


def straight_through(g: Tensor, positive: Tensor, negative: Tensor, scales: Pair, dead_zone: str) -> Tensor:
    """``W_p g`` (positive), ``W_n g`` (negative) and ``g`` or 0 (dead zone): TTQ, eq. 8; may overwrite the masks."""
    if dead_zone == "pass":
        factor = _add_product(torch.rsub(positive + negative, 1), positive, scales[0])
    else:
        factor = positive.mul_(scales[0])
    return _add_product(factor, negative, scales[1]).mul_(g)


def _add_product(x: Tensor, mask: Tensor, value: Value) -> Tensor:
    """``x += mask * value``, in one pass."""
    return x.addcmul_(mask, value) if isinstance(value, Tensor) else x.add_(mask, alpha=value)


def _inner(s: Statistics, a: Tensor, b: Tensor) -> Value:
    """``sum a b``, one number a group."""
    return s.value(torch.dot(a.flatten(), b.flatten()) if s.dims is None else total(a * b, s.dims))


def ternary_step(w: Tensor, scales: Tensor, thresholds: Tensor, alpha: Tensor, method: Ternarizer) -> Tensor:
    """Apply ``TernaryStep``.

    Args:
        w: latent weight.
        scales: ``(W_p, W_n)``, shape (2, *group).
        thresholds: the rule's numbers, shape (k, *group).
        alpha: dimensionless slope of the surrogate, of the group's shape.
        method: what to do with them.

    Returns:
        The ternary weight, of w's shape and dtype.
    """
    result: Tensor = TernaryStep.apply(w, scales, thresholds, alpha, method)  # type: ignore[no-untyped-call]
    return result
