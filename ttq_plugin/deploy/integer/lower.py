"""A graph with its grids as operations on integers: mantissas, shifts, biases, tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ttq_plugin.deploy.integer.arithmetic import (
    HIGHEST,
    LOWEST,
    PAIR_BITS,
    TOTAL_BITS,
    Affine,
    biases,
    mantissas,
    table,
)
from ttq_plugin.deploy.integer.graph import Graph, Op
from ttq_plugin.deploy.integer.ranges import Ranges
from ttq_plugin.deploy.integer.windows import spans, taps
from ttq_plugin.deploy.program.folding import folded_step
from ttq_plugin.deploy.program.steps import Buffer, View
from ttq_plugin.errors import InputError
from ttq_plugin.measures.integer import integer_codes
from ttq_plugin.measures.ternary import codes_of

LARGEST_SUM = (1 << 31) - 1


@dataclass(frozen=True)
class Weights:
    """A layer's numbers.

    Attributes:
        codes: int8, the weight's shape: -1, 0, 1, or multiples of a channel's step.
        ternary: Which of the two; ternary layers have two sums.
        positive: Mantissas, int64, one or one a channel: of the sum over positive codes, or of the only sum.
        negative: Of the sum over negative codes; None if there is one sum.
        bias: int64, one a channel, or none.
        bias_bits: Fractional bits of the bias, in steps of the result.
    """

    codes: Tensor
    ternary: bool
    positive: Tensor
    negative: Tensor | None
    bias: Tensor
    bias_bits: int


@dataclass(frozen=True, eq=False)
class IntegerOp:
    """An operation on int8.

    Attributes:
        kind: As in the graph.
        output: What it writes.
        inputs: What it reads.
        more: Geometry.
        zeros: Zero points of the inputs.
        zero: Zero point of the result, or of what a layer's table gets.
        low: Least result before a table.
        high: Largest result before a table.
        shift: Of the total.
        factors: Mantissas of ``add`` (two), ``multiply`` and ``mean`` (one) and ``mean_pool`` (one a count of numbers).
        weights: Of a layer.
        table: int8 (256,), or None.
    """

    kind: str
    output: View
    inputs: list[View]
    more: dict[str, Any]
    zeros: tuple[int, ...]
    zero: int
    low: int = LOWEST
    high: int = HIGHEST
    shift: int = 1
    factors: tuple[int, ...] = ()
    weights: Weights | None = None
    table: Tensor | None = None


@dataclass
class IntegerProgram:
    """Operations on int8 in order.

    Attributes:
        ops: In order.
        input: The sample.
        output: The result.
        affines: Grid of each buffer.
        constants: int8 by the name of a constant that operations read.
        shapes: Of each input and output, without the batch.
    """

    ops: list[IntegerOp]
    input: Buffer
    output: View
    affines: dict[Buffer, Affine]
    constants: dict[str, Tensor]
    shapes: tuple[list[tuple[int, ...]], list[tuple[int, ...]]]
    names: dict[Any, str] = field(default_factory=dict)

    @property
    def given(self) -> Affine:
        """Grid of the inputs."""
        return self.affines[self.input]

    @property
    def result(self) -> Affine:
        """Grid of the outputs."""
        return self.affines[self.output.buffer]


def lower(graph: Graph, ranges: Ranges, shapes: Any, *, ternary: bool = True) -> IntegerProgram:
    """Fix every number of the arithmetic.

    Args:
        graph: Of the model.
        ranges: The grids.
        shapes: Of the inputs and outputs.
        ternary: Whether ternary weights stay two sums; otherwise they become int8 like all others.

    Returns:
        The program.
    """
    affines = {key: grid for key, grid in ranges.affines.items() if isinstance(key, Buffer)}
    program = IntegerProgram([], graph.input, graph.output, affines, {}, shapes, names_of(graph))
    for op in graph.ops:
        program.ops.append(_lowered(graph, program, ranges, op, ternary))
    return program


def names_of(graph: Graph) -> dict[Any, str]:
    """What to call the tensors in messages."""
    names: dict[Any, str] = {graph.input: "the input"}
    for op in graph.ops:
        what = f"layer {op.more['weight'].removesuffix('.weight')}" if op.kind == "layer" else op.kind.replace("_", " ")
        names.setdefault(op.output.buffer, f"the output of {what}")
        if op.function is not None and op.kind == "layer":
            names[op] = f"the sums of {what}"
    return names


def _lowered(graph: Graph, program: IntegerProgram, ranges: Ranges, op: Op, ternary: bool) -> IntegerOp:
    target = program.affines[op.output.buffer]
    sources = [_source(graph, program, op, view) for view in op.inputs]
    given: dict[str, Any] = {"kind": op.kind, "output": op.output, "inputs": op.inputs, "more": op.more}
    given |= {"zeros": tuple(source.zero for source in sources), "zero": target.zero}
    given |= {"low": target.bound(op.bounds[0]), "high": target.bound(op.bounds[1])}
    if op.kind == "layer":
        return _layer(graph, ranges, op, sources[0], target, given, ternary)
    if op.kind == "table":
        assert op.function is not None
        return IntegerOp(**given, table=table(op.function, sources[0], target))
    if op.kind in ("copy", "largest", "largest_pool"):
        return IntegerOp(**given)
    bits, factors = 30, [sources[0].scale / target.scale]
    if op.kind == "add":
        bits = PAIR_BITS
        factors.append(op.more["sign"] * sources[1].scale / target.scale)
    elif op.kind == "multiply":
        factors = [sources[0].scale * sources[1].scale / target.scale]
    elif op.kind == "mean":
        counted = op.inputs[0].meta.numel() // op.output.meta.numel() if op.more["what"] == "MEAN" else 1
        factors[0] /= counted
    else:
        factors = [factors[0] / count for count in range(1, most_counted(op) + 1)]
    found, shift = mantissas(torch.tensor(factors, dtype=torch.float64), bits)
    return IntegerOp(**given, factors=tuple(found.tolist()), shift=shift)


def most_counted(op: Op | IntegerOp) -> int:
    """The largest number of values that a window of a pooling's mean counts."""
    shape, more = op.inputs[0].meta.shape, op.more
    most = 1
    for dim, size in enumerate(shape[-2:]):
        along = spans(more, dim, size)
        padded = more["padded"] and not more["adaptive"]
        most *= max(span[2] if padded else len(taps(span, size, more["dilation"][dim])) for span in along)
    return most


def _source(graph: Graph, program: IntegerProgram, op: Op, view: View) -> Affine:
    """Grid of an operand; a constant is written on its own, or on the result's where it is copied."""
    name = view.buffer.constant
    if name is None:
        return program.affines[view.buffer]
    values = graph.tensors[name].double()
    if op.kind == "copy":
        grid = program.affines[op.output.buffer]
        view = View(Buffer(view.buffer.size, f"{name} on grid {grid.scale!r} {grid.zero}"), view.meta)
        op.inputs = [view]
    else:
        grid = Affine.of_range(float(values.min()), float(values.max()))
    program.constants[str(view.buffer.constant)] = grid.quantise(values).reshape(-1)
    return grid


def _layer(
    graph: Graph, ranges: Ranges, op: Op, source: Affine, target: Affine, given: dict[str, Any], ternary: bool
) -> IntegerOp:
    name = op.more["weight"]
    weight = graph.tensors[name].float()
    inner = target if op.function is None else ranges.affines[op]
    codes, scales = _weights(weight, ternary)
    gain, shift = folded_step(graph.tensors, op.more, len(weight))
    fan_in = weight[0].numel()
    if fan_in * 255 * (1 if len(scales) == 2 else 127) > LARGEST_SUM:
        raise InputError(f"sums of {name} do not fit into 32 bits: {fan_in} products; make the layer narrower.")
    factor = gain * source.scale / inner.scale
    factors = torch.stack([factor * scale for scale in scales])
    bias = shift / inner.scale
    room = TOTAL_BITS - max(1, int(bias.abs().max() + 1).bit_length())
    found, right = mantissas(factors, most=room)
    written, bits = biases(bias, right) if bool((bias != 0).any()) else (torch.zeros(0, dtype=torch.int64), 0)
    if bool((found == found[:, :1]).all()):
        found = found[:, :1]
    given |= {"shift": right, "zero": inner.zero}
    given["weights"] = Weights(codes, len(scales) == 2, found[0], found[1] if len(scales) == 2 else None, written, bits)
    if op.function is not None:
        given |= {"table": table(op.function, inner, target), "low": LOWEST, "high": HIGHEST}
    return IntegerOp(**given)


def _weights(weight: Tensor, ternary: bool) -> tuple[Tensor, list[Tensor]]:
    """Codes, and the scales of a channel: of positive and negative codes, or of one step."""
    if ternary and (found := codes_of(weight)) is not None:
        rows = weight.double().reshape(1 if found.smallest_group == weight.numel() else len(weight), -1)
        both = [rows.amax(1).clamp(min=0), (-rows).amax(1).clamp(min=0)]
        return found.values.to(torch.int8), [scale.expand(len(weight)) for scale in both]
    rows = weight.double().reshape(len(weight), -1)
    grid = integer_codes(weight, 8)
    if grid is not None:
        codes = grid.values.to(torch.int8)
        largest = codes.reshape(len(weight), -1).abs().amax(1)
        # On one step a layer, a channel of zeros has none of its own.
        return codes, [rows.abs().amax(1) / largest.clamp(min=1)]
    step = rows.abs().amax(1) / HIGHEST
    step = torch.where(step > 0, step, 1.0)
    codes = torch.round(rows / step[:, None]).clamp(-HIGHEST, HIGHEST).to(torch.int8)
    return codes.reshape(weight.shape), [step]
