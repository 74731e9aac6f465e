"""The ternary step: bit-exact forward, straight-through and chain-rule backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ttq_plugin.core import native
from ttq_plugin.core.rules import Pair, Statistics, Value, full_precision, total
from ttq_plugin.core.surrogates import SURROGATES, soft_step_chain

if TYPE_CHECKING:
    from ttq_plugin.core.ternarizer import Ternarizer

Sums = tuple[Tensor | None, Sequence[Value], tuple[Pair, Value | None] | None]
"""dL/dw; sums of g over the positive and over the negative; where there is a slope, dL/dD of both and dL/dslope."""


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
    through a smooth surrogate of the step (``surrogates.SURROGATES``). All in one function of few passes, because on a
    small layer each further node of the graph costs as much as the arithmetic.
    """

    @staticmethod
    def forward(  # noqa: D102 - torch's name
        ctx: Any, w: Tensor, scales: Tensor, thresholds: Tensor, alpha: Tensor, method: Ternarizer
    ) -> Tensor:
        s = Statistics(w, method.dims(w))
        if method.normalize:
            s.normalise_()
        t: Any = s.values(thresholds)
        pair: Any = s.values(scales)
        distances: Any = method.rule.distances(s, t)
        ctx.save_for_backward(w, scales, alpha)
        moments = s.moments if method.learns_shape else None
        ctx.known = method, s.kernels and s, s.divided_by, moments, t, distances, pair
        if s.kernels is not None:
            return s.kernels.ternarise(w, s.divided_by, distances, pair)  # type: ignore[arg-type]
        positive, negative = decide(s.w, distances)
        # Products with 0 and 1 and sums with 0 round nothing: exactly three values.
        return _add_product(positive.mul_(pair[0]), negative, -pair[1]).to(w.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102 - torch's name
        # With gradients off, which is nearly always, this spares the entry into torch.no_grad.
        return (_refuse_second_derivatives if torch.is_grad_enabled() else _backward)(ctx, g)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    w, _, alpha = ctx.saved_tensors  # raises if one of the three was changed since
    method, s, divisor, moments, t, distances, pair = ctx.known
    _, need_scales, need_t, need_alpha, _ = needs = ctx.needs_input_grad
    if s is None:
        # Not kept from the forward pass: what they compute are tensors, and torch.compile refuses to change them here.
        s = Statistics(w, method.dims(w))
        s.divided_by, s._moments = divisor, moments
    slope = s.value(alpha) / moments[1] if need_t or need_alpha else None
    g = g if g.is_contiguous() else g.contiguous()
    if s.kernels and method.surrogate in native.SURROGATES and native.kernels_for(g):
        d_w, sums, chain = _native_sums(method, s, distances, pair, slope, g, need_alpha)
    else:
        d_w, sums, chain = _torch_sums(method, s, distances, pair, slope, full_precision(g), needs)
    d_scales = s.stack((sums[0], -sums[1])) if need_scales else None
    d_t = d_alpha = None
    if chain is not None:
        d_t = s.stack(method.rule.pull_back(s, t, chain[0])) if need_t else None
        d_alpha = s.stack((chain[1] / moments[1],)).reshape(alpha.shape) if need_alpha else None
    return d_w, d_scales, d_t, d_alpha, None


_refuse_second_derivatives = once_differentiable(_backward)


def _native_sums(
    method: Ternarizer, s: Statistics, distances: Pair, scales: Pair, slope: Value | None, g: Tensor, need_alpha: bool
) -> Sums:
    dead = 1.0 if method.dead_zone == "pass" else 0.0
    soft: Any = (0.0, 0) if slope is None else (slope, 1 + need_alpha)
    d_w, sums = s.kernels.gradients(s.latent, g, s.divided_by, distances, scales, dead, *soft)  # type: ignore
    return d_w, sums, None if slope is None else soft_step_chain(slope, scales, sums[2:])


def _torch_sums(
    method: Ternarizer,
    s: Statistics,
    distances: Pair,
    scales: Pair,
    slope: Value | None,
    g: Tensor,
    needs: tuple[bool, ...],
) -> Sums:
    d_w, chain = None, None
    sums: tuple[Value, ...] = ()
    if slope is not None:
        chain = SURROGATES[method.surrogate](s, distances, slope, scales, g, needs[3])
    positive, negative = decide(s.w, distances)
    if needs[1]:
        sums = _inner(s, g, positive), _inner(s, g, negative)
    if needs[0]:
        d_w = straight_through(g, positive, negative, scales, method.dead_zone)
        d_w = (d_w if s.divided_by is None else d_w.div_(s.divided_by)).to(s.latent.dtype)
    return d_w, sums, chain


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
