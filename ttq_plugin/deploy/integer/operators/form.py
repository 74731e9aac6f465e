"""What an operator must say: what it does to real numbers, its constants, and what it does to integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ttq_plugin.deploy.integer.arithmetic import Affine, requantise, rounded_shift
from ttq_plugin.deploy.integer.records import IntegerOp, Op
from ttq_plugin.deploy.program.steps import Buffer, Program, Step, View
from ttq_plugin.errors import InputError

Seen = Callable[[Any, Tensor], None]
"""Told every value: its buffer, or an operation for what it keeps to itself."""

NEAREST_BITS = 30
"""Where ``nearest`` saturates."""


class Maker(Protocol):
    """What makes the graph."""

    program: Program
    ops: list[Op]

    def emit(self, kind: str, step: Step, inputs: list[View], **rest: Any) -> Op:
        """Add an operation that writes what the step writes."""

    def missing(self, step: Step, what: str) -> InputError:
        """The error that a step has no integer form."""


Emitter = Callable[[Maker, Step, list[View]], None]


@dataclass(frozen=True)
class Lowering:
    """What is known when an operation's numbers are fixed.

    Attributes:
        tensors: The model's constants by name.
        op: The operation.
        sources: Grids of its inputs.
        target: Grid of its result.
        inner: Grid of what it keeps to itself, if it told of any.
        ternary: Whether ternary weights stay so.
        given: Fields of the integer operation that are fixed already.
    """

    tensors: dict[str, Tensor]
    op: Op
    sources: list[Affine]
    target: Affine
    inner: Affine | None
    ternary: bool
    given: dict[str, Any]

    def made(self, **rest: Any) -> IntegerOp:
        """The integer operation; ``more`` is added to the step's."""
        more = {**self.given["more"], **rest.pop("more", {})}
        return IntegerOp(**{**self.given, **rest, "more": more})


@dataclass(frozen=True)
class Form:
    """An operator in its three forms.

    Attributes:
        real: (constants, operation, inputs (batch, ...) float64, who is told of inner values) -> float64 result.
        lower: Fixes its numbers.
        integers: (integer operation, inputs (batch, ...) int8) -> int8 result, the reference for C.
    """

    real: Callable[[dict[str, Tensor], Op, list[Tensor], Seen], Tensor]
    lower: Callable[[Lowering], IntegerOp]
    integers: Callable[[IntegerOp, list[Tensor]], Tensor]


def nearest(total: Tensor, shift: int | Tensor) -> Tensor:
    """``round(total / 2^shift)`` within 2^30, halves away from 0; int64.

    Args:
        total: int64, at most 2^62 in size.
        shift: Right shift from 1 to 62; one, or one for each total.

    Returns:
        int64 of the same shape.
    """
    most = 1 << NEAREST_BITS
    return rounded_shift(total, shift).clamp(-most, most)


def finished(op: IntegerOp, total: Tensor) -> Tensor:
    """Totals as int8 on the result's grid."""
    return requantise(total, op.shift, op.zero, op.low, op.high)


def fresh(shape: tuple[int, ...]) -> View:
    """A buffer of its own."""
    return View(Buffer(torch.Size(shape).numel()), torch.empty(shape, device="meta"))
