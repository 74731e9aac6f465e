"""pTTQ as its authors released it, deviations and all: only to reproduce the published numbers.

What differs from the paper's equations, each on purpose here: zeros are where ``p(w)`` underflows in float32 and not
where a comparison says so; the gradient of W_n lacks its minus; the gradient of the thresholds leaves out dL/dq, so
they drift the same way whatever the loss; alpha multiplies weights (800 to 1e4), not standard deviations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ttq_plugin.core.contract import Params, StepOptions
from ttq_plugin.core.statistics import Statistics
from ttq_plugin.core.steps import Step, learned_scales


def pruning_function(w: Tensor, d_min: Tensor, d_max: Tensor, alpha: Tensor) -> Tensor:
    """``p(w) = relu(w - D_max) + D_max S(alpha (w - D_max)) - relu(-w - D_min) - D_min S(alpha (-w - D_min))``."""
    upper = torch.relu(w - d_max) + d_max * torch.sigmoid(alpha * (w - d_max))
    lower = torch.relu(-w - d_min) + d_min * torch.sigmoid(alpha * (-w - d_min))
    return upper - lower


def _evaluate(w: Tensor, thresholds: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p(w), the distances ``|mu + t sigma|`` and their signed derivatives by t, all in float32."""
    wide = w.detach().float()
    mu, sigma = (torch.as_tensor(x) for x in Statistics(wide, None, numbers=False).moments)
    raw = mu + thresholds.float() * sigma
    distances = raw.abs()
    return pruning_function(wide, distances[0], distances[1], alpha.float()), distances, sigma * raw.sign()


class ReleasedStep(torch.autograd.Function):
    """``W_p`` where ``p(w) > 0``, ``-W_n`` where ``p(w) < 0``, 0 where it underflows; gradients as released."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, scales: Tensor, thresholds: Tensor, alpha: Tensor) -> Tensor:  # noqa: D102
        p, distances, jacobian = _evaluate(w, thresholds, alpha)
        ctx.save_for_backward(w, scales, alpha, p.sign(), distances, jacobian)
        zero = torch.zeros((), dtype=w.dtype, device=w.device)
        return torch.where(p > 0, scales[0].to(w.dtype), torch.where(p < 0, -scales[1].to(w.dtype), zero))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102 - torch's name
        w, scales, alpha, code, (d_min, d_max), jacobian = ctx.saved_tensors
        positive, negative = (code > 0).to(g.dtype), (code < 0).to(g.dtype)
        d_w = g * (scales[0] * positive + scales[1] * negative + (1 - positive - negative))
        d_scales = torch.stack(((g * positive).sum(), (g * negative).sum()))
        wide = w.detach().float()
        up, down = torch.sigmoid(alpha * (wide - d_max)), torch.sigmoid(alpha * (-wide - d_min))
        above, below = (wide > d_max).float(), (-wide > d_min).float()
        d_upper = (-above + up - alpha * d_max * up * (1 - up)).sum()
        d_lower = (below - down + alpha * d_min * down * (1 - down)).sum()
        d_thresholds = torch.stack((d_lower, d_upper)) * jacobian
        return d_w.to(w.dtype), d_scales.to(scales.dtype), d_thresholds, None


def released_weights(w: Tensor, params: Params, method: StepOptions) -> Tensor:
    """The weight that is used, see ``ReleasedStep``."""
    inputs = (w, params["scales"], params["thresholds"], params["alpha"])
    result: Tensor = ReleasedStep.apply(*inputs)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def released_codes(w: Tensor, params: Params, method: StepOptions) -> Tensor:
    """Signs of ``p(w)`` as float32 computes it."""
    p, _, _ = _evaluate(w, params["thresholds"], params["alpha"])
    return p.sign().to(torch.int8)


RELEASED = Step(released_weights, released_codes, learned_scales, channels=False, compares=False)
