"""Kernels of the ternary step for many groups: channels on the CPU, any groups on a GPU.

``group_kernels_for`` gives them with one interface, ``GroupKernels``: in C where a layer lies on the CPU, see
``training_groups.c``, and in CUDA where it lies on a GPU, see ``cuda``.
"""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ttq_plugin.native import cuda, training
from ttq_plugin.native.contract import KernelOptions
from ttq_plugin.native.layout import Gradients, empty_gradients, group_shape, layout, raised

TILE = 16
"""How many scattered groups the C kernels bring together at a time."""


class Found(NamedTuple):
    """What a forward pass found of each group: tensors of the group's shape."""

    mean: Tensor
    sigma: Tensor
    d_min: Tensor
    d_max: Tensor


class GroupKernels(Protocol):
    """The step of a layer by kernels. A channel of None is one group, the layer."""

    def moments(self, w: Tensor, channel: int | None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each group."""

    def forward(
        self, w: Tensor, scales: Tensor, thresholds: Tensor, alpha: Tensor, method: KernelOptions, project: bool
    ) -> tuple[Tensor, Tensor]:
        """The ternary weight, and what the backward pass has to know, (6, channels) at its end.

        To project is to bring what is learned back to at least 1e-8 first, in place.
        """

    def backward(
        self, w: Tensor, g: Tensor, known: Tensor, scales: Tensor, alpha: Tensor, method: KernelOptions, soft: int
    ) -> Gradients:
        """Gradients of all that may learn; soft as in ``training.Kernels.backward``."""


class _Groups(ctypes.Structure):
    _fields_ = [("outer", ctypes.c_int64), ("channels", ctypes.c_int64), ("inner", ctypes.c_int64)]


class ChannelKernels:
    """The functions of ``training_groups.c``."""

    def moments(self, w: Tensor, channel: int | None) -> tuple[Tensor, Tensor]:
        """See ``GroupKernels``."""
        groups, shape, scratch = _laid_out(w, channel)
        out = torch.empty(2, *shape)
        _library(w).ttq_group_moments(w.data_ptr(), groups, scratch.data_ptr(), out.data_ptr())
        return out[0], out[1]

    def forward(
        self, w: Tensor, scales: Tensor, thresholds: Tensor, alpha: Tensor, method: KernelOptions, project: bool
    ) -> tuple[Tensor, Tensor]:
        """See ``GroupKernels``."""
        groups, shape, scratch = _laid_out(w, method.channel)
        q, known = torch.empty_like(w), torch.empty(6, math.prod(shape))
        _library(w).ttq_group_forward(
            w.data_ptr(),
            groups,
            scales.data_ptr(),
            thresholds.data_ptr(),
            alpha.data_ptr(),
            method.rule.native,
            method.learns_shape,
            raised(method) if project else 0,
            scratch.data_ptr(),
            known.data_ptr(),
            q.data_ptr(),
        )
        return q, known

    def backward(
        self, w: Tensor, g: Tensor, known: Tensor, scales: Tensor, alpha: Tensor, method: KernelOptions, soft: int
    ) -> Gradients:
        """See ``GroupKernels``."""
        groups, _, scratch = _laid_out(w, method.channel)
        d_w, d_scales, d_t, d_alpha = empty_gradients(w, scales, alpha, method, soft)
        _library(w).ttq_group_backward(
            w.data_ptr(),
            g.data_ptr(),
            groups,
            scales.data_ptr(),
            alpha.data_ptr(),
            known.data_ptr(),
            method.dead_zone == "pass",
            method.rule.native,
            soft,
            scratch.data_ptr(),
            d_w.data_ptr(),
            d_scales.data_ptr(),
            None if d_t is None else d_t.data_ptr(),
            None if d_alpha is None else d_alpha.data_ptr(),
        )
        return d_w, d_scales, d_t, d_alpha


def found(known: Tensor, shape: tuple[int, ...]) -> Found:
    """What the backward pass has to know, by name; ``shape`` is the group's."""
    numbers = known.flatten()[-6 * math.prod(shape) :].reshape(6, *shape)
    return Found(*numbers[:4].unbind(0))


@lru_cache(maxsize=4096)
def _groups(shape: torch.Size, channel: int | None) -> tuple[_Groups, tuple[int, ...], int]:
    outer, channels, inner = layout(shape, channel)
    scratch = 3 * TILE * outer * inner if outer > 1 else 0
    return _Groups(outer, channels, inner), group_shape(shape, channel), scratch


def _laid_out(w: Tensor, channel: int | None) -> tuple[ctypes.c_void_p, tuple[int, ...], Tensor]:
    groups, shape, scratch = _groups(w.shape, channel)
    return ctypes.byref(groups), shape, torch.empty(scratch)  # type: ignore[return-value]


def _library(w: Tensor) -> ctypes.CDLL:
    assert training.BUILT is not None
    return training.BUILT.library(w.numel())


_CHANNELS = ChannelKernels()


def group_kernels_for(channel: int | None, *tensors: Tensor) -> GroupKernels | None:
    """The kernels, if they can take a layer's groups.

    Args:
        channel: The dimension that has groups; None for one group, which on the CPU has kernels of its own.
        tensors: The weight, and what else is given to them.

    Returns:
        None where torch has to do it.
    """
    if tensors[0].is_cpu:
        return None if channel is None or training.kernels_for(*tensors) is None else _CHANNELS
    return cuda.kernels_for(*tensors) if tensors[0].is_cuda else None
