"""A model that takes a list of tensors and returns a tuple of them, for exporters that support no other nesting."""

from __future__ import annotations

import inspect
import io
import itertools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.errors import first_line
from ttq_plugin.measures.untouched import unfused_attention
from ttq_plugin.support.inputs import arguments, call, map_tensors, named_tensors, tensors

INPUT, OUTPUT = "x", "logits"
"""Names of a model's only input and only output."""

PREFIX = "model."
"""What the names of parameters begin with in the flat model."""


class Spread(nn.Module):
    """A model that takes its inputs' tensors as one list.

    Args:
        model: The model.
        example: Inputs of it; what is no tensor in them stays what it is.
    """

    def __init__(self, model: nn.Module, example: Any) -> None:
        super().__init__()
        self.model = model
        self.form = [example]  # in a list, so that a module in it would be none of ours

    def forward(self, found: list[Tensor]) -> Any:
        """Call the model with these tensors in their places."""
        places = itertools.count()
        return call(self.model, map_tensors(lambda _: found[next(places)], self.form[0]))


class Flat(Spread):
    """A model between flat inputs and outputs."""

    def forward(self, found: list[Tensor]) -> tuple[Tensor, ...]:
        """Call the model with these tensors in their places, and take the tensors out of what it returns."""
        return tuple(tensors(super().forward(found)))


@contextmanager
def exporting() -> Iterator[None]:
    """The context for torch's exporters: they print nothing, and attention consists of operations that graphs have.

    Yields:
        Nothing.
    """
    logging.disable(logging.ERROR)
    # The older exporter prints a graph that it gives up from C++, past Python's streams.
    printing: Any = getattr(torch._C, "_jit_onnx_log", None)
    torch._C._jit_onnx_log = _nothing
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with unfused_attention():
                yield
    finally:
        torch._C._jit_onnx_log = printing
        logging.disable(logging.NOTSET)


def _nothing(*_: object) -> None:
    """Log nothing."""


def reason(error: BaseException) -> str:
    """Why torch could not export a model, and what to do.

    Args:
        error: What it raised.

    Returns:
        Clauses without a full stop.
    """
    said = first_line(error.__cause__ or error).split(" (unhinted")[0].rstrip(".")
    if "data-dependent" in said:
        return (
            f"its code branches on the values of tensors, which a graph cannot represent ({said}); rewrite it with "
            f"torch.where, "
            "or run the model with TernaryRuntime"
        )
    return f"{said}; change that code, or run the model with TernaryRuntime"


def input_names(model: nn.Module, inputs: Any) -> list[str]:
    """Name the tensors of a model's inputs.

    Args:
        model: The model, whose ``forward`` names positional arguments.
        inputs: Its inputs.

    Returns:
        A name for each tensor, in order, no two the same.
    """
    positional, named = arguments(inputs)
    if not named and len(tensors(positional)) == 1 and isinstance(positional[0], Tensor):
        return [INPUT]
    words = list(inspect.signature(model.forward).parameters)
    words += [f"input_{place}" for place in range(len(words), len(positional))]
    paths = [(words[int(path[0])], *path[1:]) for path, _ in named_tensors(positional)]
    return _distinct([*paths, *(path for path, _ in named_tensors(named))])


def output_names(outputs: Any) -> list[str]:
    """Name the tensors of a model's outputs.

    Args:
        outputs: What the model returns.

    Returns:
        A name for each tensor, in order, no two the same.
    """
    if isinstance(outputs, Tensor):
        return [OUTPUT]
    return _distinct([("output", *path) for path, _ in named_tensors(outputs)])


def _distinct(paths: list[tuple[str, ...]]) -> list[str]:
    """Tensors inside an argument drop the argument's name, unless two would then have the same name."""
    short = [".".join(path[1:] if len(path) > 1 and not path[1].isdigit() else path) for path in paths]
    return short if len(set(short)) == len(short) else [".".join(path) for path in paths]
