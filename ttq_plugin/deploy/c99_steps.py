"""What a program for C is made of: buffers, views of them, steps; and torch's graph nodes read for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
    """One operation: ``layer``, ``map``, ``normalise``, ``attend`` or ``activate``.

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
        input: the sample.
        output: the result, contiguous.
        tensors: constants by name: parameters and buffers.
    """

    steps: list[Step]
    input: Buffer
    output: View
    tensors: dict[str, Tensor]


def arguments(node: fx.Node) -> dict[str, Any]:
    """The node's arguments by their names in the operation's schema, defaults included."""
    given: dict[str, Any] = {}
    for index, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if index < len(node.args):
            given[argument.name] = node.args[index]
        else:
            given[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return given


def pair(value: Any, lead: int = 1) -> tuple[int, int]:
    """(rows, columns); of one dimension the rows are ``lead``."""
    numbers = [value] if isinstance(value, int) else list(value)
    return (lead, int(numbers[0])) if len(numbers) == 1 else (int(numbers[0]), int(numbers[1]))


def geometry(node: fx.Node, given: dict[str, Any], source: Tensor) -> dict[str, Any]:
    """How a convolution looks at its input (1, channels, [rows,] columns)."""
    if isinstance(given["padding"], str):
        raise InputError(f"a convolution with padding {given['padding']!r} has no C code; give it as numbers.")
    image = source if source.dim() == 4 else source.unsqueeze(2)
    shape = node.meta["val"].shape
    kernel = given["weight"].meta["val"].shape[2:]
    return {
        **{"groups": given["groups"], "channels": image.shape[1] // given["groups"]},
        **{"rows": image.shape[2], "columns": image.shape[3], "steps": image.stride()[1:]},
        **{"kernel": pair(kernel), "stride": pair(given["stride"]), "padding": pair(given["padding"], 0)},
        **{"dilation": pair(given["dilation"]), "transposed_output": False, "out": pair(shape[2:])},
    }
