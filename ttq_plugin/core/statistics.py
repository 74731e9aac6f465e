"""What the threshold rules know of a layer.

Notation: ``w`` is a layer's latent weight of any shape. A group is a set of weights that share scales and thresholds:
the layer (``dims`` is None) or a channel (``dims`` are all dimensions except the channel's). A ``Value`` is one number
per group. It is a float for a layer on the CPU, where a tensor of one number would cost as much as a small layer;
otherwise it is a tensor of the group's shape, ``()`` or like ``(C, 1, 1, 1)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ttq_plugin.native.groups import group_kernels_for
from ttq_plugin.native.training import kernels_for

Dims = tuple[int, ...] | None
Value = float | Tensor
Pair = tuple[Value, Value]


def full_precision(w: Tensor) -> Tensor:
    """``w`` in float32 at least, so that equal stored values decide equally in every dtype."""
    return w.float() if w.dtype in (torch.float16, torch.bfloat16) else w


def total(x: Tensor, dims: Dims) -> Tensor:
    """The sum of ``x`` over ``dims``, of the group's shape."""
    return x.sum() if dims is None else x.sum(dim=dims, keepdim=True)


def copysign(size: Value, sign: Value) -> Value:
    """``|size|`` with the sign of ``sign``."""
    if isinstance(size, Tensor) and isinstance(sign, Tensor):
        return torch.copysign(size, sign)
    return math.copysign(float(size), float(sign))


def absolute(x: Value) -> Value:
    """``|x|``."""
    return x.abs() if isinstance(x, Tensor) else abs(x)


class Statistics:
    """Statistics of a layer's weights, each computed at most once and none of them differentiable.

    Attributes:
        latent: The latent weight as it came.
        dims: The dimensions that one group spans.
        divided_by: The number that the weight is divided by, or None.
        numbers: Whether values are floats; a GPU would have to wait for each, and a compiled graph would break.
        kernels: The native kernels, if they can take the weight.
        groups: The native kernels of groups whose values are tensors, if they can take the weight.
    """

    divided_by: Value | None = None
    # No functools.cached_property: torch.compile cannot trace its lock.
    _w: Tensor | None = None
    _moments: Pair | None = None
    _peaks: Pair | None = None

    def __init__(self, w: Tensor, dims: Dims, numbers: bool | None = None) -> None:
        self.latent, self.dims = w, dims
        self.kernels = kernels_for(w) if dims is None and numbers is None else None
        self.channel = None if dims is None else next(d for d in range(w.dim()) if d not in dims)
        self.groups = group_kernels_for(self.channel, w) if numbers is None else None
        if numbers is None:
            numbers = self.kernels is not None or (dims is None and w.is_cpu and not torch.compiler.is_compiling())
        self.numbers = numbers

    @property
    def w(self) -> Tensor:
        """The (divided) latent weight, detached, float32 at least."""
        if self._w is None:
            w = full_precision(self.latent.detach())
            self._w = w if self.divided_by is None else w / self.divided_by
        return self._w

    def normalise_(self) -> None:
        """Be the statistics of ``w / max|w|`` from now on."""
        if self.kernels is None:
            self.divided_by, self._peaks, self._w = self.absmax, None, None
        else:
            low, high, divided_low, divided_high = self.kernels.peaks(self.latent)
            self.divided_by, self._peaks = max(-low, high), (-divided_low, divided_high)

    def recall(self, divided_by: Value | None, moments: Pair | None) -> None:
        """Take what the forward pass has computed of the same weight.

        Args:
            divided_by: The number that the weight was divided by, or None.
            moments: Mean and standard deviation of the divided weight; None to compute them when they are needed.
        """
        self.divided_by, self._moments = divided_by, moments

    def value(self, x: Tensor) -> Value:
        """One number a group, as a float where values are floats."""
        return x.item() if self.numbers else x

    def values(self, x: Tensor) -> tuple[Value, ...]:
        """The rows of a stacked parameter, shape (k, *group)."""
        return tuple(x.tolist()) if self.numbers else x.unbind(0)

    def stack(self, values: tuple[Value, ...]) -> Tensor:
        """The reverse of ``values``, in w's dtype."""
        if self.kernels is not None:
            return self.kernels.stack(values)  # type: ignore[arg-type]
        if self.numbers:
            return torch.tensor(values, dtype=self.w.dtype)
        return torch.stack([torch.as_tensor(value) for value in values])

    @property
    def moments(self) -> Pair:
        """Mean and unbiased standard deviation."""
        if self._moments is None:
            self._moments = self._find_moments()
        return self._moments

    @property
    def peaks(self) -> Pair:
        """How far the weights reach on either side of zero, ``(max(-w), max(w))``."""
        if self._peaks is None:
            self._peaks = self._find_peaks()
        return self._peaks

    @property
    def absmax(self) -> Value:
        """``max|w|``."""
        low, high = self.peaks
        return torch.maximum(low, high) if isinstance(low, Tensor) and isinstance(high, Tensor) else max(low, high)

    def _find_moments(self) -> Pair:
        if self.kernels is not None:
            mean, root = self.kernels.moments(self.latent, self.divided_by)  # type: ignore[arg-type]
            return mean, root * (self.latent.numel() - 1) ** -0.5
        if self.groups is not None:
            return self.groups.moments(self.w, self.channel)
        # Two passes of plain vector operations are several times faster than torch.std_mean on the CPU, and as exact.
        mu = self.w.mean() if self.dims is None else self.w.mean(dim=self.dims, keepdim=True)
        norm = torch.linalg.vector_norm(self.w - mu, dim=self.dims, keepdim=self.dims is not None)
        return self.value(mu), self.value(norm) * (self.w.numel() // mu.numel() - 1) ** -0.5

    def _find_peaks(self) -> Pair:
        if self.kernels is not None and self.divided_by is None:
            least, largest, *_ = self.kernels.peaks(self.latent)
            return -least, largest
        if self.dims is None:
            low, high = torch.aminmax(self.w)
        else:
            low, high = self.w.amin(dim=self.dims, keepdim=True), self.w.amax(dim=self.dims, keepdim=True)
        return -self.value(low), self.value(high)
