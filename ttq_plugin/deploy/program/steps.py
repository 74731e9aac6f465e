"""What a program is made of: buffers, views of them, steps; and torch's graph nodes read for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from ttq_plugin.errors import InputError


@dataclass(eq=False)
class Buffer:
    """Floats in memory.

    Attributes:
        size: how many.
        constant: name of the parameter or buffer it holds, or None.
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
        kind: which.
        output: what it writes.
        inputs: what it reads.
        more: everything else, by name.
    """

    kind: str
    output: View
    inputs: list[View]
    more: dict[str, Any] = field(default_factory=dict)


@dataclass
class Program:
    """Steps in order, with the tensors they use.

    Attributes:
        steps: in order.
        input: the sample; several inputs lie one behind the other.
        output: the result, contiguous; several likewise.
        tensors: constants by name: parameters, buffers, and what could be computed from them beforehand.
        shapes: of each input and of each output, in order, without the batch.
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


def arguments(node: fx.Node) -> dict[str, Any]:
    """The node's arguments by their names in the operation's schema, defaults included."""
    given: dict[str, Any] = {}
    for index, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if index < len(node.args):
            given[argument.name] = node.args[index]
        else:
            given[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return given


def is_operator(node: fx.Node) -> bool:
    """Whether a node calls one of torch's operators."""
    return node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)


def kind_of(node: fx.Node) -> str:
    """Name of a node's operation, without namespace and overload."""
    return str(node.target._schema.name.split("::")[1])  # type: ignore[union-attr]


def pair(value: Any, lead: int = 1) -> tuple[int, int]:
    """(rows, columns); of one dimension the rows are ``lead``."""
    numbers = [value] if isinstance(value, int) else list(value)
    return (lead, int(numbers[0])) if len(numbers) == 1 else (int(numbers[0]), int(numbers[1]))


def geometry(node: fx.Node, given: dict[str, Any], source: Tensor) -> dict[str, Any]:
    """How a convolution looks at its input (1, channels, [rows,] columns)."""
    if source.dim() != given["weight"].meta["val"].dim():
        raise InputError("a convolution of one sample without a batch dimension has no C code; keep the batch.")
    image = source if source.dim() == 4 else source.unsqueeze(2)
    shape = node.meta["val"].shape
    kernel, dilation = pair(given["weight"].meta["val"].shape[2:]), pair(given["dilation"])
    if given["padding"] == "same":  # of an odd number of zeros, one more lies beyond, where there are zeros anyway
        padding = ((kernel[0] - 1) * dilation[0] // 2, (kernel[1] - 1) * dilation[1] // 2)
    else:
        padding = (0, 0) if given["padding"] == "valid" else pair(given["padding"], 0)
    return {
        **{"groups": given["groups"], "channels": image.shape[1] // given["groups"]},
        **{"rows": image.shape[2], "columns": image.shape[3], "steps": image.stride()[1:]},
        **{"kernel": kernel, "stride": pair(given["stride"]), "padding": padding},
        **{"dilation": dilation, "transposed_output": False, "out": pair(shape[2:])},
    }
