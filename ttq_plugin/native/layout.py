"""How the groups of a weight lie in memory, and room for what the kernels find of them."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from ttq_plugin.native.contract import KernelOptions

Gradients = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""dL/dw, dL/dscales, dL/dthresholds, dL/dalpha."""


@lru_cache(maxsize=4096)
def layout(shape: torch.Size, channel: int | None) -> tuple[int, int, int]:
    """A contiguous weight's (outer, channels, inner); the channels are the groups."""
    if channel is None:
        return 1, 1, shape.numel()
    return math.prod(shape[:channel]), shape[channel], math.prod(shape[channel + 1 :])


@lru_cache(maxsize=4096)
def group_shape(shape: torch.Size, channel: int | None) -> tuple[int, ...]:
    """The shape of one number a group."""
    return () if channel is None else tuple(n if d == channel else 1 for d, n in enumerate(shape))


def empty_gradients(w: Tensor, scales: Tensor, alpha: Tensor, method: KernelOptions, soft: int) -> Gradients:
    """Room for what ``GroupKernels.backward`` finds."""
    d_t = scales.new_empty(len(method.rule.names), *scales.shape[1:]) if soft else None
    return torch.empty_like(w), torch.empty_like(scales), d_t, torch.empty_like(alpha) if soft == 2 else None


def raised(method: KernelOptions) -> int:
    """What the kernels bring back to at least 1e-8 where they project: 1 for scales, 2 for thresholds, 4 for alpha."""
    return method.learn_scales + 2 * method.learn_thresholds + 4 * method.learn_alpha
