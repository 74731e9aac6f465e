"""A layer in eight bits, by oneDNN as torch has it: weights a channel, inputs by one range, sums in 32 bits."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.deploy.runtime.compiled import Spec

ZERO = 128
"""The unsigned code of an input of zero."""

FAR = 0.05
"""Largest error of an eight-bit layer, relative to its largest output (narrow instructions may overflow)."""


class Int8Layer:
    """A convolution or linear layer with its BatchNorm, as integers; what follows is left to torch.

    Args:
        layer: Conv1d, Conv2d or Linear.
        spec: Its numbers, BatchNorm included.
        largest: The largest of the inputs' magnitudes; what is larger is clipped to it.

    Raises:
        RuntimeError, AttributeError: If torch was built without these operations.
    """

    def __init__(self, layer: nn.Module, spec: Spec, largest: float) -> None:
        weight = torch.from_numpy(spec.weight)
        self.spec, self.linear, self.one = spec, isinstance(layer, nn.Linear), isinstance(layer, nn.Conv1d)
        self.input_scale = max(largest, 1e-30) / 127
        self.scales = weight.abs().amax((1, 2, 3)).clamp(min=1e-30) / 127
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = torch.from_numpy(spec.shift)
        codes = (weight / self.scales.reshape(-1, 1, 1, 1)).round().to(torch.int8)
        self.places = [list(spec.stride), list(spec.padding), list(spec.dilation)]
        self.packed: Any
        if self.linear:
            self.packed = torch.ops.onednn.qlinear_prepack(codes.flatten(1), None)
        else:
            self.packed = torch.ops.onednn.qconv_prepack(codes, self.scales, 1.0, 0, *self.places, 1, None)

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, ...) float32 -> the layer's output before pooling and activation, float32."""
        weight = (self.packed, self.scales, self.zeros, self.bias)
        if self.linear:
            codes = self._codes(x).flatten(0, -2)
            after: list[object] = [1.0, 0, torch.float32, "none", [], ""]
            rows: Tensor = torch.ops.onednn.qlinear_pointwise(codes, self.input_scale, ZERO, *weight, *after)
            return rows.reshape(*x.shape[:-1], -1)
        codes = self._codes(x.unsqueeze(2) if self.one else x)
        after = [*self.places, 1, 1.0, 0, torch.float32, "none", [], ""]
        out: Tensor = torch.ops.onednn.qconv_pointwise(codes, self.input_scale, ZERO, *weight, *after)
        return out.squeeze(2) if self.one else out

    def _codes(self, x: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wants models quantised by another package; this is one operation
            return torch.quantize_per_tensor(x.contiguous(), self.input_scale, ZERO, torch.quint8).int_repr()


def int8_layer(layer: nn.Module, spec: Spec, inputs: Tensor) -> Int8Layer | None:
    """The layer in eight bits.

    Args:
        layer: Conv1d, Conv2d or Linear.
        spec: Its numbers.
        inputs: Real ones (n, ...), whose range becomes the codes'.

    Returns:
        None where torch cannot do it here, or does it wrong.
    """
    try:
        made = Int8Layer(layer, spec, float(inputs.abs().max()))
        with torch.inference_mode():
            ours, exact = made(inputs[:8]), _with(layer, spec, inputs[:8], torch.from_numpy(spec.weight))
    except (RuntimeError, AttributeError):
        return None
    return made if float((ours - exact).abs().max()) <= FAR * float(exact.abs().max()) else None


def _with(layer: nn.Module, spec: Spec, x: Tensor, weight: Tensor) -> Tensor:
    """The layer in floats of the weight's kind."""
    shift = torch.from_numpy(spec.shift).to(weight)
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(x, weight.flatten(1), shift)
    one = isinstance(layer, nn.Conv1d)
    planes = x.unsqueeze(2) if one else x
    out = nn.functional.conv2d(planes, weight, shift, spec.stride, spec.padding, spec.dilation)
    return out.squeeze(2) if one else out
