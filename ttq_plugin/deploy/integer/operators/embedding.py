"""Rows of a constant table, chosen by indices of one, two or three bytes, the lowest byte first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ttq_plugin.deploy.integer.arithmetic import Affine
from ttq_plugin.deploy.integer.operators.form import Form, Lowering, Maker, Seen
from ttq_plugin.deploy.integer.records import Graph, IntegerOp, Op
from ttq_plugin.deploy.program.steps import Buffer, Step, View
from ttq_plugin.errors import InputError
from ttq_plugin.measures.ternary import codes_of

MOST_ROWS = 1 << 24
"""Largest number of rows that three bytes can index."""


def emit(made: Maker, step: Step, inputs: list[View]) -> None:
    """An embedding of the model's own input."""
    rows = len(made.program.tensors[step.more["table"]])
    if inputs[0].buffer is not made.program.input:
        raise made.missing(step, "an embedding of computed indices")
    if rows > MOST_ROWS:
        raise made.missing(step, f"an embedding of more than {MOST_ROWS} rows")
    made.emit("embed", step, inputs)


def index_rows(graph: Graph, name: str) -> list[int]:
    """How many rows the indices in each of a model's inputs choose from; 0 where an input holds real numbers.

    Args:
        graph: The model's graph.
        name: The model's name, for messages.

    Returns:
        One number an input.

    Raises:
        InputError: If something else reads indices.
    """
    read: list[dict[str, list[int]]] = [{"embed": [], "other": []} for _ in graph.sizes]
    for op in graph.ops:
        for view in op.inputs:
            if view.buffer is graph.input:
                rows = len(graph.tensors[op.more["table"]]) if op.kind == "embed" else 0
                read[graph.part(view)]["embed" if rows else "other"].append(rows)
    if any(each["embed"] and each["other"] for each in read):
        raise InputError(
            f"{name} also computes with the indices of an embedding, which has no integer form; pass them to it as "
            f"another input, or export the model to c."
        )
    return [min(each["embed"], default=0) for each in read]


@dataclass(frozen=True)
class Layout:
    """The bytes of a sample.

    Attributes:
        buffer: The sample.
        parts: For each input: its count of numbers, the bytes of each, and the rows that they index, or 0.
    """

    buffer: Buffer
    parts: list[tuple[int, int, int]]

    @classmethod
    def of(cls, graph: Graph) -> Layout:
        """The layout of a graph's input, which stays as it is where every number is a byte."""
        rows = index_rows(graph, "the model")
        parts = [(size, _bytes(each), each) for size, each in zip(graph.sizes, rows, strict=True)]
        total = sum(size * width for size, width, _ in parts)
        return cls(graph.input if total == graph.input.size else Buffer(total), parts)

    def width_of(self, graph: Graph, view: View) -> int:
        """Bytes of each number of a view of the input."""
        return self.parts[graph.part(view)][1]

    def moved(self, graph: Graph, view: View) -> View:
        """Where the numbers of a view of the input lie."""
        if view.buffer is not graph.input or self.buffer is graph.input:
            return view
        part = graph.part(view)
        width = self.parts[part][1]
        before = sum(size * each for size, each, _ in self.parts[:part])
        at = before + (int(view.meta.storage_offset()) - sum(graph.sizes[:part])) * width
        flat = torch.empty(self.buffer.size, device="meta")
        return View(self.buffer, flat.as_strided(view.meta.shape, [s * width for s in view.meta.stride()], at))


def _bytes(rows: int) -> int:
    return 1 if rows <= 1 << 8 else 2 if rows <= 1 << 16 else 3


def spelled(indices: Tensor, width: int) -> Tensor:
    """Indices as bytes.

    Args:
        indices: int64 (batch, count).
        width: Bytes of each.

    Returns:
        int8 (batch, count * width), the lowest byte first.
    """
    each = [(indices >> (8 * place)) & 255 for place in range(width)]
    return torch.stack(each, -1).flatten(1).to(torch.uint8).view(torch.int8)


def encoded(numbers: Tensor, parts: list[tuple[int, int, int]], grid: Affine) -> Tensor:
    """Samples as bytes: real numbers on the grid of the input, indices as they are.

    Args:
        numbers: float (batch, numbers of a sample).
        parts: The parts of the layout.
        grid: Grid of the real numbers.

    Returns:
        int8 (batch, bytes of a sample).

    Raises:
        InputError: If an index lies outside its embedding.
    """
    found = []
    for place, (part, (_, width, rows)) in enumerate(
        zip(numbers.split([count for count, _, _ in parts], 1), parts, strict=True)
    ):
        outside = ((part < 0) | (part >= rows)) if rows else torch.zeros(1, dtype=torch.bool)
        if bool(outside.any()):
            raise InputError(
                f"the indices in input {place} must lie in [0, {rows}), the rows of its embedding, got "
                f"{part[outside][0]:g}."
            )
        found.append(spelled(part.round().to(torch.int64), width) if rows else grid.quantise(part))
    return torch.cat(found, 1)


def _real(tensors: dict[str, Tensor], op: Op, inputs: list[Tensor], seen: Seen) -> Tensor:
    return tensors[op.more["table"]].double()[inputs[0].round().to(torch.int64)]


def _lower(low: Lowering) -> IntegerOp:
    weight = low.tensors[low.op.more["table"]]
    values = None
    if low.ternary and (found := codes_of(weight)) is not None and found.smallest_group == weight.numel():
        ends = torch.stack([torch.zeros_like(weight[0, 0]), weight.max().clamp(min=0), weight.min().clamp(max=0)])
        values = tuple(low.target.quantise(ends).tolist())
    entries = low.target.quantise(weight)
    return low.made(more={"entries": entries, "values": values, "codes": weight.sign().to(torch.int8)})


def _integers(op: IntegerOp, inputs: list[Tensor]) -> Tensor:
    entries, width = op.more["entries"], op.more["bytes"]
    view = op.inputs[0].meta
    first = inputs[0]
    index = torch.zeros(first.shape, dtype=torch.int64)
    for place in range(width):
        byte = first.as_strided(first.shape, first.stride(), first.storage_offset() + place)
        index += (byte.to(torch.int64) & 255) << (8 * place)
    found: Tensor = entries[index.clamp(max=len(entries) - 1)]
    assert found.shape[1:-1] == view.shape
    return found


FORM = Form(_real, _lower, _integers)
