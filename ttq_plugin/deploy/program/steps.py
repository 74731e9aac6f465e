"""What a program is made of: buffers, views of them, steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(eq=False)
class Buffer:
    """Floats in memory.

    Attributes:
        size: The number.
        constant: Name of the parameter or buffer it holds, or None.
    """

    size: int
    constant: str | None = None


@dataclass(frozen=True)
class View:
    """Part of a buffer, seen as a tensor; ``meta`` has shape, strides and offset, and no data."""

    buffer: Buffer
    meta: Tensor

    @property
    def contiguous(self) -> bool:
        """Whether it lies in row-major order."""
        return self.meta.is_contiguous()


@dataclass
class Step:
    """One operation: ``layer``, ``map``, ``normalise``, ``attend``, ``reduce`` or another that the writer knows.

    Attributes:
        kind: The kind of step.
        output: What it writes.
        inputs: What it reads.
        more: Everything else, by name.
    """

    kind: str
    output: View
    inputs: list[View]
    more: dict[str, Any] = field(default_factory=dict)


@dataclass
class Program:
    """Steps in order, with the tensors they use.

    Attributes:
        steps: The steps, in order.
        input: The sample; several inputs lie one behind the other.
        output: The result, contiguous; several likewise.
        tensors: Constants by name: parameters, buffers, and what could be computed from them beforehand.
        shapes: The shapes of each input and of each output, in order, without the batch.
    """

    steps: list[Step]
    input: Buffer
    output: View
    tensors: dict[str, Tensor]
    shapes: tuple[list[tuple[int, ...]], list[tuple[int, ...]]]

    def used(self) -> set[str]:
        """Names of the constants that the steps read."""
        found = {view.buffer.constant for step in self.steps for view in step.inputs if view.buffer.constant}
        for step in self.steps:
            more = {**step.more, **(step.more.get("norm") or {})}
            found |= {value for value in more.values() if isinstance(value, str) and value in self.tensors}
        return found
