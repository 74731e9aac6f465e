"""Surrogate gradients: smooth stand-ins for the ternary step, through which thresholds and alpha learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ttq_plugin.core.statistics import Pair, Statistics, Value, total


def soft_step_gradients(
    s: Statistics, distances: Pair, slope: Value, scales: Pair, g: Tensor, need_slope: bool
) -> tuple[Pair, Value | None]:
    """Chain rule through ``q = W_p S(a (w - D_max)) - W_n S(a (-w - D_min))``, S the logistic sigmoid, a the slope.

    Args:
        s: The latent weight and its groups.
        distances: ``(D_min, D_max)``.
        slope: ``a = alpha / sigma``, in 1 / units of w.
        scales: ``(W_p, W_n)``.
        g: dL/dq, the gradient that reached the ternary weight, of w's shape.
        need_slope: Whether dL/da is wanted.

    Returns:
        ``(dL/dD_min, dL/dD_max)``, and dL/da or None.
    """
    # S' is even, so both steps are written with w's own sign: x = a (w - D_max) and x = a (w + D_min).
    above = g_times_sigmoid_slope(torch.sub(s.w, distances[1]).mul_(slope), g)
    below = g_times_sigmoid_slope(torch.add(s.w, distances[0]).mul_(slope), g)
    terms = [above, below]
    if need_slope:
        terms += [above * (s.w - distances[1]), below * (s.w + distances[0])]
    return soft_step_chain(slope, scales, [s.value(total(term, s.dims)) for term in terms])


def soft_step_chain(slope: Value, scales: Pair, sums: Sequence[Value]) -> tuple[Pair, Value | None]:
    """``soft_step_gradients`` from its sums over w: of ``g S'`` above and below, and for dL/da of ``g S' x`` too."""
    d_distances = scales[1] * slope * sums[1], -scales[0] * slope * sums[0]
    return d_distances, scales[0] * sums[2] + scales[1] * sums[3] if len(sums) == 4 else None


def g_times_sigmoid_slope(x: Tensor, g: Tensor) -> Tensor:
    """``g S(x) (1 - S(x))``, in one pass over ``S(x)``; overwrites x."""
    result: Tensor = torch.ops.aten.sigmoid_backward(g, x.sigmoid_())
    return result


def weak_derivative_gradients(
    s: Statistics, distances: Pair, slope: Value, scales: Pair, g: Tensor, need_slope: bool
) -> tuple[Pair, Value | None]:
    """The paper's derivatives of its pruning function p, chained with the straight-through gradient.

    ``p = relu(w - D_max) + D_max S(a (w - D_max)) - relu(-w - D_min) - D_min S(a (-w - D_min))`` (Vindas et al. 2024),
    ``dp/dD_max = -H(w - D_max) + S(x) - a D_max S'(x)`` at ``x = a (w - D_max)``, and the mirror image with the
    opposite sign for D_min (their eq. 2-3 print the last term without a, a misprint); dL/dp is straight through:
    ``W_p g``, ``g``, ``W_n g``.

    Args:
        s: The latent weight and its groups.
        distances: ``(D_min, D_max)``.
        slope: ``a = alpha / sigma``, in 1 / units of w.
        scales: ``(W_p, W_n)``.
        g: dL/dq, the gradient that reached the ternary weight, of w's shape.
        need_slope: Whether dL/da is wanted.

    Returns:
        ``(dL/dD_min, dL/dD_max)``, and dL/da or None.
    """
    sums, slopes = [], []
    positive, negative = (s.w > distances[1]).to(g.dtype), (s.w < -distances[0]).to(g.dtype)
    d_p = g * (scales[0] * positive + scales[1] * negative + (1 - positive - negative))
    for side, (beyond, kept, distance) in enumerate(
        ((-s.w - distances[0], negative, distances[0]), (s.w - distances[1], positive, distances[1]))
    ):
        soft = torch.sigmoid(slope * beyond)
        steep = soft * (1 - soft)
        sign = 1.0 if side else -1.0
        sums.append(sign * s.value(total(d_p * (soft - kept - slope * distance * steep), s.dims)))
        if need_slope:
            slopes.append(sign * s.value(total(d_p * distance * steep * beyond, s.dims)))
    return (sums[0], sums[1]), slopes[0] + slopes[1] if need_slope else None


SURROGATES = {"soft": soft_step_gradients, "weak": weak_derivative_gradients}
