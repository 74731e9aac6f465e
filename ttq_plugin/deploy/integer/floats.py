"""A graph on real numbers: what the ranges of its values are seen in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ttq_plugin.deploy.integer.operators.form import Seen
from ttq_plugin.deploy.integer.operators.table import FORMS
from ttq_plugin.deploy.integer.records import Graph, Op
from ttq_plugin.deploy.integer.windows import image_of, largest_pool, spread_layer, sum_pool
from ttq_plugin.deploy.program.folding import folded_step
from ttq_plugin.deploy.program.steps import Buffer, View


class Memory:
    """Values of a batch, by buffer.

    Args:
        tensors: Constants by name.
        dtype: The type of the values.
    """

    def __init__(self, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
        self.tensors, self.dtype = tensors, dtype
        self.held: dict[Buffer, Tensor] = {}
        self.batch = 0

    def start(self, buffer: Buffer, values: Tensor) -> None:
        """Begin with the samples (batch, numbers)."""
        self.batch = len(values)
        # A copy, because views count places from the beginning of its memory.
        self.held = {buffer: values.flatten(1).to(self.dtype).clone(memory_format=torch.contiguous_format)}

    def read(self, view: View) -> Tensor:
        """A view of a batch, (batch, ...); constants are the same for all samples."""
        meta = view.meta
        if view.buffer.constant is not None:
            flat = self.tensors[view.buffer.constant].to(self.dtype).reshape(-1)
            one = flat.as_strided(meta.shape, meta.stride(), meta.storage_offset())
            return one.expand(self.batch, *meta.shape)
        flat = self.held[view.buffer]
        return flat.as_strided((self.batch, *meta.shape), (flat.shape[1], *meta.stride()), meta.storage_offset())

    def write(self, view: View, values: Tensor) -> None:
        """Store (batch, ...) in a view; what was never written is 0."""
        if view.buffer not in self.held:
            self.held[view.buffer] = torch.zeros(self.batch, view.buffer.size, dtype=self.dtype)
        self.read(view).copy_(values.reshape(self.batch, *view.meta.shape))


def run(graph: Graph, x: Tensor, seen: Seen) -> Tensor:
    """The graph's result on samples.

    Args:
        graph: The operations.
        x: float (batch, numbers of a sample).
        seen: Told every value: its buffer with what was written to it, a layer's op with what its function gets, and a
            recurrent layer's with its cells.

    Returns:
        float64 (batch, numbers of the result).
    """
    memory = Memory(graph.tensors, torch.float64)
    memory.start(graph.input, x)
    seen(graph.input, x.flatten(1)[:, graph.real])
    for op in graph.ops:
        inputs = [memory.read(view) for view in op.inputs]
        form = FORMS.get(op.kind)
        values = form.real(graph.tensors, op, inputs, seen) if form else KINDS[op.kind](graph, op, inputs, seen)
        values = values.clamp(*op.bounds)
        seen(op.output.buffer, values)
        memory.write(op.output, values)
    return memory.read(graph.output).flatten(1)


def _layer(graph: Graph, op: Op, inputs: list[Tensor], seen: Seen) -> Tensor:
    weight = graph.tensors[op.more["weight"]].double()
    gain, shift = folded_step(graph.tensors, op.more, len(weight))
    total = spread_layer(image_of(op.more, inputs[0]), weight, op.more)
    total = total * gain.view(-1, 1, 1) + shift.view(-1, 1, 1)
    if op.function is not None:
        seen(op, total)
        total = op.function(total)
    return arranged(op.more, total)


def arranged(more: dict[str, Any], total: Tensor) -> Tensor:
    """A layer's (batch, channels, rows, columns) pooled and in the order of its output."""
    if more["pool"]:
        total = F.max_pool2d(total, more["pool"]["size"], more["pool"]["stride"])
    return total.permute(0, 2, 3, 1) if more["transposed_output"] else total


def _table(graph: Graph, op: Op, inputs: list[Tensor], seen: Seen) -> Tensor:
    assert op.function is not None
    values: Tensor = op.function(inputs[0])
    return values


def _copy(graph: Graph, op: Op, inputs: list[Tensor], seen: Seen) -> Tensor:
    return broadcast(op.output, inputs)[0].expand(-1, *op.output.meta.shape)


def _add(graph: Graph, op: Op, inputs: list[Tensor], seen: Seen) -> Tensor:
    one, other = (x.expand(-1, *op.output.meta.shape) for x in broadcast(op.output, inputs))
    total: Tensor = one + other * op.more["sign"]
    return total


def _multiply(graph: Graph, op: Op, inputs: list[Tensor], seen: Seen) -> Tensor:
    one, other = broadcast(op.output, inputs)
    return one * other


def broadcast(output: View, inputs: list[Tensor]) -> list[Tensor]:
    """Operands with as many dimensions as the result."""
    dims = output.meta.dim()
    return [x.reshape(len(x), *[1] * (dims + 1 - x.dim()), *x.shape[1:]) for x in inputs]


def _mean(graph: Graph, op: Op, inputs: list[Tensor], seen: Seen) -> Tensor:
    dims = [dim + 1 for dim in op.more["dims"]]
    return inputs[0].mean(dims) if op.more["what"] == "MEAN" else inputs[0].sum(dims)


def _largest(graph: Graph, op: Op, inputs: list[Tensor], seen: Seen) -> Tensor:
    return inputs[0].amax([dim + 1 for dim in op.more["dims"]])


def _mean_pool(graph: Graph, op: Op, inputs: list[Tensor], seen: Seen) -> Tensor:
    total, counts = sum_pool(op.more, inputs[0].squeeze(1))
    return total / counts


def _largest_pool(graph: Graph, op: Op, inputs: list[Tensor], seen: Seen) -> Tensor:
    return largest_pool(op.more, inputs[0].squeeze(1))


KINDS: dict[str, Callable[[Graph, Op, list[Tensor], Seen], Tensor]] = {
    **{"layer": _layer, "table": _table, "copy": _copy, "add": _add, "multiply": _multiply},
    **{"mean": _mean, "largest": _largest, "mean_pool": _mean_pool, "largest_pool": _largest_pool},
}
