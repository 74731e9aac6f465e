"""A graph with its grids as operations on integers: mantissas, shifts, biases, tables."""

from __future__ import annotations

from typing import Any

import torch

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
from ttq_plugin.deploy.integer.operators.embedding import Layout
from ttq_plugin.deploy.integer.operators.form import Lowering
from ttq_plugin.deploy.integer.operators.table import FORMS
from ttq_plugin.deploy.integer.ranges import Ranges
from ttq_plugin.deploy.integer.records import Graph, IntegerOp, IntegerProgram, Op, Weights
from ttq_plugin.deploy.integer.weights import check_sums, weight_codes
from ttq_plugin.deploy.integer.windows import spans, taps
from ttq_plugin.deploy.program.folding import folded_step
from ttq_plugin.deploy.program.steps import Buffer, View

WORDS = {"recur": "a recurrent layer", "normalise": "a norm", "embed": "an embedding", "product": "a product"}
"""What kinds of operations are called in messages, where not by their own names."""


def lower(graph: Graph, ranges: Ranges, shapes: Any, *, ternary: bool = True) -> IntegerProgram:
    """Fix every number of the arithmetic.

    Args:
        graph: The model's graph.
        ranges: The grids.
        shapes: Shapes of the inputs and outputs.
        ternary: Whether ternary weights stay two sums; otherwise they become int8 like all others.

    Returns:
        The program.
    """
    affines = {key: grid for key, grid in ranges.affines.items() if isinstance(key, Buffer)}
    layout = Layout.of(graph)
    affines[layout.buffer] = affines[graph.input]
    program = IntegerProgram([], layout.buffer, graph.output, affines, {}, shapes, names_of(graph), layout.parts)
    for op in graph.ops:
        program.ops.append(_lowered(graph, program, ranges, op, ternary, layout))
    return program


def names_of(graph: Graph) -> dict[Any, str]:
    """What to call the tensors in messages."""
    names: dict[Any, str] = {graph.input: "the input"}
    for op in graph.ops:
        what = WORDS.get(op.kind, op.kind.replace("_", " "))
        what = f"layer {op.more['weight'].removesuffix('.weight')}" if op.kind == "layer" else what
        names.setdefault(op.output.buffer, f"the output of {what}")
        if op.function is not None and op.kind == "layer":
            names[op] = f"the sums of {what}"
    return names


def _lowered(graph: Graph, program: IntegerProgram, ranges: Ranges, op: Op, ternary: bool, layout: Layout) -> IntegerOp:
    target = program.affines[op.output.buffer]
    sources = [_source(graph, program, op, view) for view in op.inputs]
    moved = [layout.moved(graph, view) for view in op.inputs]
    given: dict[str, Any] = {"kind": op.kind, "output": op.output, "inputs": moved, "more": op.more}
    given |= {"zeros": tuple(source.zero for source in sources), "zero": target.zero}
    given |= {"low": target.bound(op.bounds[0]), "high": target.bound(op.bounds[1])}
    if op.kind in FORMS:
        if op.kind == "embed":
            given["more"] = {**op.more, "bytes": layout.width_of(graph, op.inputs[0])}
        return FORMS[op.kind].lower(
            Lowering(graph.tensors, op, sources, target, ranges.affines.get(op), ternary, given)
        )
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
    elif op.kind == "softmax":
        grid = Affine(1.0, 0)  # a mask is 0 or 1
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
    codes, scales = weight_codes(weight, ternary)
    check_sums(name, weight, len(scales) == 2)
    gain, shift = folded_step(graph.tensors, op.more, len(weight))
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
