"""Operations of a network on real numbers and on integers: what every other module here reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ttq_plugin.deploy.integer.arithmetic import HIGHEST, LOWEST, Affine
from ttq_plugin.deploy.program.steps import Buffer, View

Function = Callable[[Tensor], Tensor]
INFINITE = (-math.inf, math.inf)


@dataclass(eq=False)
class Op:
    """An operation on values.

    Attributes:
        kind: ``layer``, ``table`` (a function of each number), ``copy``, ``add``, ``multiply``, ``mean``, ``largest``,
            ``mean_pool``, ``largest_pool``, or one of ``operators.table``.
        output: What it writes, in whole or in part.
        inputs: What it reads.
        more: Geometry and names of constants, as in the step.
        function: What ``table`` does, or a layer after its sum.
        bounds: Real numbers that the result is clamped to.
    """

    kind: str
    output: View
    inputs: list[View]
    more: dict[str, Any] = field(default_factory=dict)
    function: Function | None = None
    bounds: tuple[float, float] = INFINITE


@dataclass
class Graph:
    """Operations in order.

    Attributes:
        ops: The operations, in order.
        input: The sample.
        output: The result.
        tensors: Constants by name.
        sizes: Numbers of each of the model's inputs, which lie one behind the other in ``input``.
    """

    ops: list[Op]
    input: Buffer
    output: View
    tensors: dict[str, Tensor]
    sizes: list[int]

    def part(self, view: View) -> int:
        """Which of the model's inputs a view of ``input`` is part of."""
        at, part = int(view.meta.storage_offset()), 0
        while part < len(self.sizes) - 1 and at >= self.sizes[part]:
            at, part = at - self.sizes[part], part + 1
        return part

    @property
    def real(self) -> list[int]:
        """Places in ``input`` of inputs that are no indices of an embedding."""
        of_indices = {self.part(op.inputs[0]) for op in self.ops if op.kind == "embed"}
        starts = [sum(self.sizes[:part]) for part in range(len(self.sizes))]
        kept = [part for part in range(len(self.sizes)) if part not in of_indices]
        return [at for part in kept for at in range(starts[part], starts[part] + self.sizes[part])]

    def readers(self) -> dict[Buffer, int]:
        """How many operations read each buffer; the result is read once more."""
        found: dict[Buffer, int] = {self.output.buffer: 1}
        for op in self.ops:
            for buffer in {view.buffer for view in op.inputs}:
                found[buffer] = found.get(buffer, 0) + 1
        return found

    def writers(self) -> dict[Buffer, int]:
        """How many operations write each buffer."""
        found: dict[Buffer, int] = {}
        for op in self.ops:
            found[op.output.buffer] = found.get(op.output.buffer, 0) + 1
        return found


@dataclass(frozen=True)
class Weights:
    """A layer's numbers.

    Attributes:
        codes: int8, the weight's shape: -1, 0, 1, or multiples of a channel's step.
        ternary: Which of the two; ternary layers have two sums.
        positive: Mantissas, int64, one or one a channel: of the sum over positive codes, or of the only sum.
        negative: Mantissas of the sum over negative codes; None if there is one sum.
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
        kind: The kind, as in the graph.
        output: What it writes.
        inputs: What it reads.
        more: Geometry.
        zeros: Zero points of the inputs.
        zero: Zero point of the result, or of what a layer's table gets.
        low: Least result before a table.
        high: Largest result before a table.
        shift: Right shift of the total.
        factors: Mantissas of ``add`` (two), ``multiply`` and ``mean`` (one) and ``mean_pool`` (one a count of numbers).
        weights: Weights of a layer, or None.
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
        ops: The operations, in order.
        input: The sample.
        output: The result.
        affines: Grid of each buffer.
        constants: int8 by the name of a constant that operations read.
        shapes: Shapes of each input and output, without the batch dimension.
        names: What to call the tensors in messages.
        parts: For each input: its count of numbers, the bytes of each, and the rows of the embedding they index, or 0.
    """

    ops: list[IntegerOp]
    input: Buffer
    output: View
    affines: dict[Buffer, Affine]
    constants: dict[str, Tensor]
    shapes: tuple[list[tuple[int, ...]], list[tuple[int, ...]]]
    names: dict[Any, str] = field(default_factory=dict)
    parts: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def given(self) -> Affine:
        """Grid of the inputs."""
        return self.affines[self.input]

    @property
    def result(self) -> Affine:
        """Grid of the outputs."""
        return self.affines[self.output.buffer]
