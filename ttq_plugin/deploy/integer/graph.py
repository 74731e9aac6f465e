"""Converts a program's steps so that every value has its own buffer, and merges element-wise functions.

Steps write over what nothing reads any more; here each version of a buffer becomes a buffer, which has one grid of
integers. Chains of operations on single numbers, such as hardswish's five, become one function; bounds, such as those
of ReLU6, move into the operation before them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ttq_plugin.deploy.integer.compounds import recognised
from ttq_plugin.deploy.integer.functions import BINARY, UNARY, leaky
from ttq_plugin.deploy.integer.operators.embedding import index_rows
from ttq_plugin.deploy.integer.operators.table import EMITTERS
from ttq_plugin.deploy.integer.records import INFINITE, Function, Graph, Op
from ttq_plugin.deploy.program.steps import Buffer, Program, Step, View
from ttq_plugin.errors import InputError

BOUNDED = {"layer", "add", "multiply", "mean", "mean_pool", "product", "normalise"}
"""Kinds that round a total, and so can clamp it."""


def build(program: Program, name: str) -> Graph:
    """The graph of a program.

    Args:
        program: The model's floating-point program.
        name: The model's name, for messages.

    Returns:
        The graph.

    Raises:
        InputError: If an operation has no integer form.
    """  # noqa: DOC502 - raised by what it calls
    made = _Maker(program, name)
    for step in recognised(program):
        made.add(step)
    sizes = [torch.Size(shape).numel() for shape in program.shapes[0]]
    graph = Graph(made.ops, program.input, made.read(program.output), program.tensors, sizes)
    _drop_unread(graph)
    _absorb_bounds(graph)
    index_rows(graph, name)
    return graph


@dataclass(frozen=True)
class _Chain:
    """A value as a function of one that was there before: the root, the root's writes until then, what is done."""

    root: View
    writes: int
    function: Function
    bounds: tuple[float, float] | None


class _Maker:
    def __init__(self, program: Program, name: str) -> None:
        self.program, self.name = program, name
        self.ops: list[Op] = []
        self.versions: dict[Buffer, Buffer] = {}
        self.writes: dict[Buffer, int] = {}
        self.chains: dict[Buffer, _Chain] = {}

    def read(self, view: View) -> View:
        return View(self.versions.get(view.buffer, view.buffer), view.meta)

    def add(self, step: Step) -> None:
        inputs = [self.read(view) for view in step.inputs]
        if step.kind in EMITTERS:
            EMITTERS[step.kind](self, step, inputs)
        else:
            getattr(self, f"_{step.kind}")(step, inputs)

    def missing(self, step: Step, what: str) -> InputError:
        named = [value for value in step.more.values() if isinstance(value, str) and value in self.program.tensors]
        where = f" ({named[0]})" if named else ""
        return InputError(
            f"{self.name} uses {what}{where}, which has no integer form; keep to convolutions, linear layers, "
            "recurrent layers, attention, norms, embeddings, pooling, sums, concatenations and functions of single "
            "numbers, or export it to c."
        )

    def write(self, view: View) -> View:
        """The place in the new buffer; a write of the whole begins a version."""
        if view.meta.numel() == view.buffer.size or view.buffer not in self.versions:
            self.versions[view.buffer] = Buffer(view.buffer.size)
        buffer = self.versions[view.buffer]
        self.writes[buffer] = self.writes.get(buffer, 0) + 1
        return View(buffer, view.meta)

    def emit(self, kind: str, step: Step, inputs: list[View], **rest: Any) -> Op:
        op = Op(kind, self.write(step.output), inputs, {**step.more, **rest.pop("more", {})}, **rest)
        self.ops.append(op)
        return op

    # One method a kind of step.

    def _layer(self, step: Step, inputs: list[View]) -> None:
        slope = step.more["slope"]
        if slope == 0:
            self.emit("layer", step, inputs, bounds=(0.0, math.inf))
        else:
            self.emit("layer", step, inputs, function=None if slope == 1 else leaky(slope))

    def _activate(self, step: Step, inputs: list[View]) -> None:
        slope = step.more["slope"]
        self._unary(step, inputs[0], leaky(slope), (0.0, math.inf) if slope == 0 else None)

    def _map(self, step: Step, inputs: list[View]) -> None:
        what = step.more["what"]
        if what == "COPY":
            self.emit("copy", step, inputs)
        elif len(inputs) == 1:
            self._unary(step, inputs[0], UNARY[what], None)
        elif not self._of_one(step, inputs, what):
            kinds = {"ADD": "add", "SUBTRACT": "add", "MULTIPLY": "multiply"}
            if what not in kinds:
                raise self.missing(step, f"{what.lower()} of two tensors")
            if any(self._hides(view) for view in inputs):
                raise self.missing(step, "a mask that no softmax follows")
            self.emit(kinds[what], step, inputs, more={"sign": -1 if what == "SUBTRACT" else 1})

    def _hides(self, view: View) -> bool:
        """Whether a constant has numbers that represent minus infinity."""
        return view.buffer.constant is not None and bool((self.program.tensors[view.buffer.constant] < -1e30).any())

    def _reduce(self, step: Step, inputs: list[View]) -> None:
        self.emit("largest" if step.more["what"] == "LARGEST" else "mean", step, inputs)

    def _pool(self, step: Step, inputs: list[View]) -> None:
        self.emit("mean_pool" if step.more["mean"] else "largest_pool", step, inputs)

    # Functions of one number.

    def _chain_of(self, view: View) -> _Chain:
        """What the view is a function of: of what its only writer read, or of itself."""
        known = self.chains.get(view.buffer)
        same = known is not None and view.contiguous and view.meta.shape == known.root.meta.shape
        if known is not None and same and known.writes == self.writes.get(known.root.buffer, 0):
            return known
        return _Chain(view, self.writes.get(view.buffer, 0), _itself, INFINITE)

    def _unary(self, step: Step, view: View, function: Function, bounds: tuple[float, float] | None) -> None:
        chain = self._chain_of(view)
        whole = partial(_after, chain.function, function)
        both = None if bounds is None or chain.bounds is None else _both(chain.bounds, bounds)
        self._emit_table(step, chain, whole, both)

    def _emit_table(self, step: Step, chain: _Chain, function: Function, bounds: tuple[float, float] | None) -> None:
        op = self.emit("table", step, [chain.root], function=function, bounds=bounds or INFINITE)
        op.more["clamp"] = bounds is not None
        if op.output.contiguous and op.output.meta.numel() == op.output.buffer.size:
            self.chains[op.output.buffer] = replace(chain, function=function, bounds=bounds)

    def _of_one(self, step: Step, inputs: list[View], what: str) -> bool:
        """Emit a function of one number, if the two operands are functions of the same value, or constants."""
        numbers = [self._number(view) for view in inputs]
        chains = [self._chain_of(v) for v, number in zip(inputs, numbers, strict=True) if number is None]
        if not chains or any(not _same(chain.root, chains[0].root) for chain in chains):
            return False
        if chains[0].root.buffer.constant or chains[0].root.meta.shape != step.output.meta.shape:
            return False
        rest = iter(chains)
        one, other = (next(rest).function if number is None else number for number in numbers)
        bounds = None
        number = next((each for each in numbers if each is not None), None)
        if number is not None and what in ("MAXIMUM", "MINIMUM") and chains[0].bounds is not None:
            mine = (number, math.inf) if what == "MAXIMUM" else (-math.inf, number)
            bounds = _both(chains[0].bounds, mine)
        self._emit_table(step, chains[0], partial(_joined, BINARY[what], one, other), bounds)
        return True

    def _number(self, view: View) -> float | None:
        """A constant of one number."""
        if view.buffer.constant is None or view.buffer.size != 1:
            return None
        return float(self.program.tensors[view.buffer.constant].reshape(-1)[0])


def _itself(x: Tensor) -> Tensor:
    return x


def _after(first: Function, second: Function, x: Tensor) -> Tensor:
    return second(first(x))


def _joined(
    both: Callable[[Tensor, Tensor], Tensor], one: Function | float, other: Function | float, x: Tensor
) -> Tensor:
    values = [part(x) if callable(part) else torch.full_like(x, part) for part in (one, other)]
    return both(*values)


def _both(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The bounds of a value that is clamped twice."""
    low, high = (min(max(bound, other[0]), other[1]) for bound in one)
    return low, high


def _same(one: View, other: View) -> bool:
    a, b = one.meta, other.meta
    return one.buffer is other.buffer and a.shape == b.shape and _place(a) == _place(b)


def _place(meta: Tensor) -> tuple[Any, ...]:
    return meta.stride(), meta.storage_offset()


def _drop_unread(graph: Graph) -> None:
    """Leave out what nothing reads, such as the parts of chains."""
    needed, kept = {graph.output.buffer}, []
    for op in reversed(graph.ops):
        if op.output.buffer in needed:
            needed |= {view.buffer for view in op.inputs}
            kept.append(op)
    graph.ops = kept[::-1]


def _absorb_bounds(graph: Graph) -> None:
    """Clamps of a value that nothing else sees become part of the operation that rounds it."""
    readers, writers = graph.readers(), graph.writers()
    makers = {op.output.buffer: op for op in graph.ops}
    gone: set[Op] = set()
    for op in graph.ops:
        if op.kind != "table" or not op.more["clamp"]:
            continue
        source = op.inputs[0]
        maker = makers.get(source.buffer)
        if maker is None or maker.kind not in BOUNDED or maker.function is not None:
            continue
        once = readers.get(source.buffer) == 1 and writers[source.buffer] == 1 and writers[op.output.buffer] == 1
        alike = source.contiguous and op.output.contiguous and source.meta.numel() == source.buffer.size
        if once and alike and op.output.meta.numel() == op.output.buffer.size:
            maker.output = View(op.output.buffer, maker.output.meta)
            maker.bounds = _both(maker.bounds, op.bounds)
            makers[op.output.buffer] = maker
            gone.add(op)
    graph.ops = [op for op in graph.ops if op not in gone]
