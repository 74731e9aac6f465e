"""A convolution or linear layer with what follows it, as torch does it and as the kernels do."""

from __future__ import annotations

import copy
import ctypes
import threading
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttq_plugin.core.model.layers import tensor_of
from ttq_plugin.deploy.program.fusion import Tail
from ttq_plugin.deploy.runtime.compiled import Choice, Compiled, compile_layer, spec_of
from ttq_plugin.deploy.runtime.int8 import Int8Layer
from ttq_plugin.native.inference import LANES, RUN

TORCH, INT8 = Choice("torch"), Choice("int8")


def bucket(samples: int) -> int:
    """The next power of two: what is measured for one batch size holds for those near it."""
    return 1 << max(0, samples - 1).bit_length()


def aligned(count: int) -> Tensor:
    """Zeros, float32, on a 64-byte boundary."""
    whole = torch.zeros(count + LANES)
    start = (-whole.data_ptr() // 4) % LANES
    return whole[start : start + count]


@dataclass
class Buffers(threading.local):
    """Working memory of one thread, by name; made when first needed, kept."""

    held: dict[Any, Tensor] = field(default_factory=dict)

    def get(self, key: Any, count: int) -> Tensor:
        """``count`` floats or more, zeros when made."""
        found = self.held.get(key)
        if found is None or found.numel() < count:
            found = self.held[key] = aligned(count)
        return found


class FusedLayer(nn.Module):
    """A layer and its tail, run as chosen for the size of the batch.

    Args:
        layer: Conv1d, Conv2d or Linear.
        tail: What follows.
    """

    def __init__(self, layer: nn.Module, tail: Tail) -> None:
        super().__init__()
        self.layer, self.tail = copy.copy(layer), tail
        self.spec = spec_of(layer, tail)
        self.linear = isinstance(layer, nn.Linear)
        self.follower: list[FusedLayer] = []  # in lists, so that they are no submodules
        self.leader: list[FusedLayer] = []
        self.choices: dict[int, Choice] = {}
        self.programs: dict[Any, Compiled] = {}
        self.memory = Buffers()
        self.int8: Int8Layer | None = None

    def __getattr__(self, name: str) -> Any:
        """Whatever the layer has, such as ``weight``, for code that reads it."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "layer":
                raise
            return getattr(self.layer, name)

    def forward(self, input: Tensor) -> Tensor:
        """(batch, ...) -> the same as the layers that it replaces."""
        choice = self.choice(len(input))
        if choice.kind == "torch":
            return self.by_torch(input)
        if not (self.leader or self.follower or self.fits(input)):
            return self.by_torch(input)
        if not choice.ours:
            return self.by_int8(input)
        padded = any(each.choice(len(input)).ours for each in self.leader)
        wanted = [each.spec.padding for each in self.follower if each.choice(len(input)).ours]
        return self.by_kernel(input, choice, padded, wanted[0] if wanted else (0, 0))

    def fits(self, x: Tensor) -> bool:
        """Whether the kernels can run the layer on such an input."""
        if x.dtype is not torch.float32 or not x.numel():
            return False
        weight = tensor_of(self.layer, "weight")
        if self.linear:
            return x.dim() in {2, 3, 4} and x.shape[-1] == weight.shape[1]
        if x.dim() != weight.dim() or x.shape[1] != weight.shape[1]:
            return False
        return min(self.spec.sizes(x.shape[-2] if x.dim() == 4 else 1, x.shape[-1])) >= 1

    def choice(self, samples: int) -> Choice:
        """How a batch runs: as measured for the next power of two."""
        return self.choices.get(bucket(samples), TORCH)

    def by_torch(self, x: Tensor) -> Tensor:
        """As the model would."""
        x = self.layer(x)
        if (norm := self.tail.norm) is not None:
            assert norm.module is not None  # what the runtime traces has modules
            x = norm.module(x)
        return self._rest(x)

    def by_int8(self, x: Tensor) -> Tensor:
        """Run the layer in eight bits, if that was allowed."""
        assert self.int8 is not None
        return self._rest(self.int8(x))

    def _rest(self, x: Tensor) -> Tensor:
        """Pooling and activation."""
        tail = self.tail
        if tail.pool is not None:
            window, stride = tail.pool
            one = isinstance(self.layer, nn.Conv1d)
            x = F.max_pool1d(x, window[1], stride[1]) if one else F.max_pool2d(x, window, stride)
        if tail.slope != 1:
            x = F.relu(x) if tail.slope == 0 else F.leaky_relu(x, tail.slope)
        return x

    def by_kernel(
        self, x: Tensor, choice: Choice, padded: bool = False, next_padding: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """By ``ttq_layer``.

        Args:
            x: (batch, ...).
            choice: How the layer runs.
            padded: Whether ``x`` has this layer's padding already, in working memory of the layer before.
            next_padding: Zeros to leave around the output, which then lies in working memory.

        Returns:
            The output.
        """
        linear, shape = self.linear, x.shape
        if linear:  # one sample, its features the channels, its rows the columns of a picture
            x = x.reshape(1, -1, shape[-1]).transpose(1, 2)
        samples, height, width = len(x), x.shape[-2] if x.dim() == 4 else 1, x.shape[-1]
        if padded:
            height, width = height - 2 * self.spec.padding[0], width - 2 * self.spec.padding[1]
        key = (height, width, choice, next_padding)
        program = self.programs.get(key)
        if program is None:
            program = self.programs[key] = compile_layer(self.spec, height, width, choice, next_padding)
        planes = x if padded else self._planes(x, samples, height, width)
        channels, rows, columns = program.out
        count = samples * channels * rows * columns
        # Working memory is kept for each padding: what is not written must stay zero.
        held = self.memory.get(("out", rows, columns), count + LANES) if any(next_padding) else torch.empty(count)
        panel = self.memory.get("panel", program.panel)
        sums, lines = self.memory.get("sums", program.sums), self.memory.get("lines", program.layer.out_w + LANES)
        pointers = (t.data_ptr() for t in (planes, held, panel, sums, lines))
        RUN(ctypes.byref(program.layer), samples, *pointers)
        out = held[:count]
        if linear:
            return out.view(channels, -1).t().reshape(*shape[:-1], channels)
        return out.view(samples, channels, columns) if x.dim() == 3 else out.view(samples, channels, rows, columns)

    def _planes(self, x: Tensor, samples: int, height: int, width: int) -> Tensor:
        """The input in working memory, with its padding, and with room behind it."""
        down, right = self.spec.padding
        channels, rows, columns = x.shape[1], height + 2 * down, width + 2 * right
        count = samples * channels * rows * columns
        planes = self.memory.get(("in", rows, columns), count + LANES)
        inner = planes[:count].view(samples, channels, rows, columns)[:, :, down : down + height, right : right + width]
        inner.copy_(x.reshape(samples, channels, height, width))
        return planes
