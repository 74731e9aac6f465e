"""A model as self-contained C99: packed weights as constants, static buffers, no malloc, no library but libm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ttq_plugin.deploy.c99.calls import CALLS
from ttq_plugin.deploy.c99.text import header
from ttq_plugin.deploy.c99.writer import Writer
from ttq_plugin.deploy.c_files import write_c
from ttq_plugin.deploy.program.lower import trace
from ttq_plugin.errors import InputError
from ttq_plugin.support.names import check_c_name


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        source: The .c file.
        header: The .h file.
        constant_bytes: Bytes of weights, scales and other constants: flash in addition to the code.
        static_bytes: Bytes of all buffers: memory in addition to the stack.
        kinds: How each layer's weight is stored, by the weight's name.
    """

    source: Path
    header: Path
    constant_bytes: int
    static_bytes: int
    kinds: dict[str, str]


def export_c(
    model: nn.Module,
    example_input: Any,
    folder: Path,
    *,
    name: str = "model",
    about: str = "",
    dense: bool = False,
) -> Written:
    """Write ``NAME.c`` and ``NAME.h``, which compute what the module computes in evaluation mode, one sample per call.

    Several inputs are concatenated in the function's single array of floats, and so are several outputs; integers, such
    as tokens, are passed as floats.

    Args:
        model: Any module whose operations have C code (those of the built-in tasks have).
        example_input: (batch, ...): a tuple is the positional arguments, a dict the keyword arguments, anything else
            the only argument; the shapes of the first sample are used.
        folder: The output folder, created if needed.
        name: Name of the files, and what the names in the header begin with.
        about: One line for the header's first comment.
        dense: Whether to store all weights as floats, for comparison.

    Returns:
        The files and their sizes.

    Raises:
        InputError: If the name is no C identifier, the module cannot be exported, a weight is not finite, or the
            folder cannot be written.
    """
    check_c_name(name)
    program = trace(model, example_input)
    used = {key: program.tensors[key] for key in sorted(program.used())}
    bad = [key for key, value in used.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise InputError(
            f"C code needs finite weights, got NaN or infinity in {', '.join(bad)}; train the model again."
        )
    writer = Writer(program, dense, CALLS)
    body = writer.body()
    code, declarations = folder / f"{name}.c", folder / f"{name}.h"
    texts = {declarations.name: header(name, about, program.shapes), code.name: writer.text(name, body)}
    write_c(folder, name, texts)
    return Written(code, declarations, writer.constant_bytes, writer.static_bytes, writer.kinds)


def static_bytes(model: nn.Module, example: Any) -> int:
    """Bytes of memory that a model's C code needs with float weights, without writing it.

    Args:
        model: Any module whose operations have C code.
        example: Its inputs.

    Returns:
        The bytes of all buffers.
    """
    return Writer(trace(model, example), True, CALLS).static_bytes
