"""The ternary step: bit-exact forward, straight-through and chain-rule backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ttq_plugin.core.statistics import Pair, Statistics, Value, full_precision, total
from ttq_plugin.core.surrogates import SURROGATES
from ttq_plugin.native import training as native
from ttq_plugin.native.groups import found, group_kernels_for

if TYPE_CHECKING:
    from ttq_plugin.core.contract import StepOptions
    from ttq_plugin.native.groups import GroupKernels
    from ttq_plugin.native.training import Kernels

Known = tuple[Value | None, Pair | None, tuple[Value, ...], Pair, Pair]
"""What the forward pass found: what the weight was divided by, its moments, t, the distances, the scales."""


def decide(w: Tensor, distances: Pair) -> tuple[Tensor, Tensor]:
    """Which weights are positive and which negative, by comparison.

    Written into floating point at once: on the CPU that is twice as fast as booleans, and so is all that follows.

    Args:
        w: Latent weight, float32 or float64.
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
        ctx: Any, w: Tensor, scales: Tensor, thresholds: Tensor, alpha: Tensor, method: StepOptions
    ) -> Tensor:
        s = Statistics(w, method.dims(w))
        if method.normalize:
            s.normalise_()
        t: Any = s.values(thresholds)
        pair: Any = s.values(scales)
        distances: Any = method.rule.distances(s, t)
        moments = s.moments if method.learns_shape else None
        ctx.save_for_backward(w, scales, alpha)
        ctx.known = method, (s.divided_by, moments, t, distances, pair)
        positive, negative = decide(s.w, distances)
        # Products with 0 and 1 and sums with 0 round nothing: exactly three values.
        return _add_product(positive.mul_(pair[0]), negative, -pair[1]).to(w.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102 - torch's name
        w, _, alpha = ctx.saved_tensors  # raises if one of the three was changed since
        method, known = ctx.known
        return _gradients(w, alpha, method, known, g, ctx.needs_input_grad)


class NativeStep(torch.autograd.Function):
    """``TernaryStep`` by the native kernels, two calls in all."""

    @staticmethod
    def forward(  # noqa: D102 - torch's name
        ctx: Any, w: Tensor, scales: Tensor, thresholds: Tensor, alpha: Tensor, method: StepOptions, kernels: Kernels
    ) -> Tensor:
        ctx.save_for_backward(w, scales, alpha)
        q, known = kernels.forward(w, scales, thresholds, method)
        ctx.known = method, kernels, known, thresholds
        return q

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102 - torch's name
        # With gradients off, which is nearly always, this spares the entry into torch.no_grad.
        return (_refuse_second_derivatives if torch.is_grad_enabled() else _native_backward)(ctx, g)


def _native_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    w, scales, alpha = ctx.saved_tensors
    method, kernels, known, thresholds = ctx.known
    _, need_scales, need_t, need_alpha, _, _ = needs = ctx.needs_input_grad
    soft = 2 if need_alpha else 1 if need_t else 0
    g = g if g.is_contiguous() else g.contiguous()
    if (soft and method.surrogate not in native.SURROGATES) or native.kernels_for(g) is None:
        return *_gradients(w, alpha, method, native.values(known, method.normalize, len(thresholds)), g, needs), None
    d_w, d_scales, d_t, d_alpha = kernels.backward(w, g, known, scales, thresholds, alpha, method, soft)
    return d_w, d_scales if need_scales else None, d_t if need_t else None, d_alpha, None, None


class GroupStep(torch.autograd.Function):
    """``TernaryStep`` by the kernels of many groups, or of a GPU."""

    @staticmethod
    def forward(  # noqa: D102 - torch's name
        ctx: Any,
        w: Tensor,
        scales: Tensor,
        thresholds: Tensor,
        alpha: Tensor,
        method: StepOptions,
        kernels: GroupKernels,
        project: bool,
    ) -> Tensor:
        q, known = kernels.forward(w, scales, thresholds, alpha, method, project)
        ctx.save_for_backward(w, scales, alpha)
        ctx.known = method, kernels, known, thresholds
        return q

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102 - torch's name
        return (_refuse_second_group_derivatives if torch.is_grad_enabled() else _group_backward)(ctx, g)


def _group_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    w, scales, alpha = ctx.saved_tensors
    method, kernels, known, thresholds = ctx.known
    _, need_scales, need_t, need_alpha, *_ = needs = ctx.needs_input_grad
    soft = 2 if need_alpha else 1 if need_t else 0
    g = g if g.is_contiguous() else g.contiguous()
    if (soft and method.surrogate not in native.SURROGATES) or group_kernels_for(method.channel, g) is None:
        mean, sigma, d_min, d_max = found(known, tuple(alpha.shape))
        w_p, w_n = scales.unbind(0)
        values = None, (mean, sigma), tuple(thresholds.unbind(0)), (d_min, d_max), (w_p, w_n)
        return *_gradients(w, alpha, method, values, g, needs), None, None
    d_w, d_scales, d_t, d_alpha = kernels.backward(w, g, known, scales, alpha, method, soft)
    return d_w, d_scales if need_scales else None, d_t if need_t else None, d_alpha, None, None, None


_refuse_second_derivatives = once_differentiable(_native_backward)
_refuse_second_group_derivatives = once_differentiable(_group_backward)


def _gradients(
    w: Tensor, alpha: Tensor, method: StepOptions, known: Known, g: Tensor, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """dL/dw, dL/dscales, dL/dthresholds, dL/dalpha, None: those that are needed, by torch."""
    g = full_precision(g)
    divisor, moments, t, distances, pair = known
    # Not kept from the forward pass: what they compute are tensors, and torch.compile refuses to change them here.
    s = Statistics(w, method.dims(w))
    s.recall(divisor, moments)
    d_w = d_scales = d_t = d_alpha = None
    if moments is not None and (needs[2] or needs[3]):
        slope: Any = s.value(alpha) / moments[1]
        d_distances, d_slope = SURROGATES[method.surrogate](s, distances, slope, pair, g, needs[3])
        if needs[2] and method.rule.pull_back is not None:
            d_t = s.stack(method.rule.pull_back(s, t, d_distances))
        if d_slope is not None:
            d_alpha = s.stack((d_slope / moments[1],)).reshape(alpha.shape)
    positive, negative = decide(s.w, distances)
    if needs[1]:
        d_scales = s.stack((_inner(s, g, positive), -_inner(s, g, negative)))
    if needs[0]:
        d_w = latent_gradient(g, positive, negative, pair, method.dead_zone)
        d_w = (d_w if divisor is None else d_w.div_(divisor)).to(w.dtype)
    return d_w, d_scales, d_t, d_alpha, None


def latent_gradient(g: Tensor, positive: Tensor, negative: Tensor, scales: Pair, dead_zone: str) -> Tensor:
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


def ternary_step(
    w: Tensor, scales: Tensor, thresholds: Tensor, alpha: Tensor, method: StepOptions, project: bool = False
) -> Tensor:
    """Apply ``TernaryStep``, by the native kernels where they can take the layer.

    Args:
        w: Latent weight.
        scales: ``(W_p, W_n)``, shape (2, *group).
        thresholds: The rule's numbers, shape (k, *group).
        alpha: Dimensionless slope of the surrogate, of the group's shape.
        method: What to do with them.
        project: Whether what is learned is first brought back to where the method allows it, in place and unseen by
            autograd, see ``Ternarizer.project_``.

    Returns:
        The ternary weight, of w's shape and dtype.
    """
    # A layer divided by its largest weight goes to torch: the kernels of groups do not divide.
    groups = None if method.normalize else group_kernels_for(method.channel, w, scales, thresholds, alpha)
    if groups is not None:
        return GroupStep.apply(  # type: ignore[no-any-return, no-untyped-call]
            w, scales, thresholds, alpha, method, groups, project
        )
    if project and torch.compiler.is_exporting():
        found = method.projected({"scales": scales, "thresholds": thresholds, "alpha": alpha})
        scales, thresholds, alpha = found["scales"], found["thresholds"], found["alpha"]
    elif project:
        learned = {"scales": scales.data, "thresholds": thresholds.data, "alpha": alpha.data}
        method.project_(learned)
    if method.channel is None and (kernels := native.kernels_for(w, scales, thresholds, alpha)) is not None:
        return NativeStep.apply(w, scales, thresholds, alpha, method, kernels)  # type: ignore[no-any-return, no-untyped-call]
    result: Tensor = TernaryStep.apply(w, scales, thresholds, alpha, method)  # type: ignore[no-untyped-call]
    return result
