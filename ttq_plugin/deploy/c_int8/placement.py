"""Where the buffers of an integer program lie in one arena."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from ttq_plugin.deploy.integer.records import IntegerOp, IntegerProgram
from ttq_plugin.deploy.program.steps import Buffer, View

EXACT = 7
"""Buffers up to which every order is tried."""


OVER = ("table", "add", "multiply", "softmax", "normalise")
"""Kinds of operations that can overwrite their operand."""


@dataclass(frozen=True)
class Placement:
    """Places of the buffers that are neither input, output nor constant.

    Attributes:
        offsets: Offset of each buffer in bytes.
        size: Size of the arena in bytes.
        bound: The largest number of bytes in use at the same time; no placement is smaller.
    """

    offsets: dict[Buffer, int]
    size: int
    bound: int


def place(program: IntegerProgram) -> Placement:
    """Place buffers so that those in use at the same time do not overlap.

    Element-wise operations and operations on rows overwrite their operand if nothing reads it later. Each buffer is put
    into the first gap that fits; for a few buffers all orders are tried, for many only some good ones.

    Args:
        program: The operations.

    Returns:
        The smallest placement that was found.
    """
    shared = _shared(program)
    spans: dict[Buffer, tuple[int, int]] = {}
    for index, op in enumerate(program.ops):
        for view in (op.output, *op.inputs):
            if _inner(program, view.buffer):
                root = shared.get(view.buffer, view.buffer)
                spans[root] = (spans.get(root, (index, index))[0], index)
    orders: list[list[Buffer]] = [
        sorted(spans, key=lambda b: -b.size),
        sorted(spans, key=lambda b: spans[b][0]),
        sorted(spans, key=lambda b: -b.size * (1 + spans[b][1] - spans[b][0])),
    ]
    if len(spans) <= EXACT:
        orders += [list(order) for order in itertools.permutations(spans)]
    offsets = min((_first_fit(order, spans) for order in orders), key=_size, default={})
    bound = max(
        (sum(b.size for b, (first, last) in spans.items() if first <= at <= last) for at in range(len(program.ops))),
        default=0,
    )
    found = dict(offsets)
    found.update({buffer: offsets[root] for buffer, root in shared.items()})
    return Placement(found, _size(offsets), bound)


def _size(offsets: dict[Buffer, int]) -> int:
    return max((at + buffer.size for buffer, at in offsets.items()), default=0)


def _inner(program: IntegerProgram, buffer: Buffer) -> bool:
    return buffer.constant is None and buffer not in (program.input, program.output.buffer)


def _first_fit(order: list[Buffer], spans: dict[Buffer, tuple[int, int]]) -> dict[Buffer, int]:
    offsets: dict[Buffer, int] = {}
    for buffer in order:
        first, last = spans[buffer]
        taken = sorted(
            (offsets[o], offsets[o] + o.size) for o in offsets if spans[o][0] <= last and first <= spans[o][1]
        )
        at = 0
        for start, end in taken:
            if start - at >= buffer.size:
                break
            at = max(at, end)
        offsets[buffer] = at
    return offsets


def _shared(program: IntegerProgram) -> dict[Buffer, Buffer]:
    """Results that are written over an operand -> the buffer that they share."""
    last = {view.buffer: index for index, op in enumerate(program.ops) for view in op.inputs}
    writes: dict[Buffer, int] = {}
    for op in program.ops:
        writes[op.output.buffer] = writes.get(op.output.buffer, 0) + 1
    shared: dict[Buffer, Buffer] = {}
    for index, op in enumerate(program.ops):
        target = op.output.buffer
        if op.kind not in OVER or not _inner(program, target) or writes[target] > 1:
            continue
        for view in op.inputs:
            if last[view.buffer] == index and _inner(program, view.buffer) and _over(op, view):
                shared[target] = shared.get(view.buffer, view.buffer)
                break
    return shared


def _over(op: IntegerOp, view: View) -> bool:
    """Whether each number is read where its result is written, and nowhere else."""
    whole = view.contiguous and op.output.contiguous and view.meta.shape == op.output.meta.shape
    alone = sum(other.buffer is view.buffer for other in op.inputs) == 1
    return whole and alone and view.meta.numel() == view.buffer.size == op.output.buffer.size
