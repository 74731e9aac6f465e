"""An integer network as C99 files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttq_plugin.deploy.c_files import write_c
from ttq_plugin.deploy.c_int8.sizes import CPUS, flash_bytes
from ttq_plugin.deploy.c_int8.text import header, source, test_source
from ttq_plugin.deploy.c_int8.writer import Writer
from ttq_plugin.deploy.integer.module import IntegerModule
from ttq_plugin.support.names import check_c_name

VECTORS = 8
"""Samples in the test program."""


@dataclass(frozen=True)
class WrittenIntegers:
    """What was written.

    Attributes:
        source: The .c file.
        header: The .h file.
        test: The test program, or None where no samples were given.
        constant_bytes: Weights, factors, tables and steps on a 32-bit ARM processor: flash in addition to the code.
        static_bytes: Bytes of memory in addition to the stack, input and output.
        kinds: How each layer's weight is stored, by the weight's name.
        flash: Bytes of code and constants by processor, as in ``sizes``.
    """

    source: Path
    header: Path
    test: Path | None
    constant_bytes: int
    static_bytes: int
    kinds: dict[str, str]
    flash: dict[str, int]


def export_int8(
    module: IntegerModule,
    folder: Path,
    *,
    name: str = "model",
    about: str = "",
    samples: Any = None,
    fast: bool = False,
) -> WrittenIntegers:
    """Write ``NAME.c``, ``NAME.h`` and ``NAME_test.c``, which compute the module's integers, one sample per call.

    The code is C99 without floating point, library functions, heap or recursion.

    Args:
        module: The result of ``integerize``.
        folder: The output folder, created if needed.
        name: Name of the files, and prefix of the names in the header.
        about: One line for the first comment of the header.
        samples: Inputs for the test program, of which the first ``VECTORS`` are used; None for no test program.
        fast: Whether ternary codes may take more bytes if that makes them faster to read.

    Returns:
        The files and their sizes.

    Raises:
        InputError: If the name is no C identifier, or the folder cannot be written.
    """
    check_c_name(name)
    writer = Writer(module.program, fast)
    texts = {f"{name}.h": header(module.program, name, about), f"{name}.c": source(writer, name)}
    if samples is not None:
        q = module.quantised(samples)[:VECTORS]
        texts[f"{name}_test.c"] = test_source(name, q.tolist(), module.integers(q).tolist())
    write_c(folder, name, texts)
    test = folder / f"{name}_test.c" if samples is not None else None
    flash = {cpu: flash_bytes(writer, cpu) for cpu in CPUS}
    sizes = writer.data.size(), writer.static_bytes
    return WrittenIntegers(folder / f"{name}.c", folder / f"{name}.h", test, *sizes, writer.kinds, flash)


def footprint(module: IntegerModule) -> dict[str, float]:
    """Number of bytes that an integer network needs on a Cortex-M0, without writing anything.

    Args:
        module: The result of ``integerize``.

    Returns:
        ``flash`` (code and constants) and ``ram`` (static memory without the stack, input and output).
    """
    writer = Writer(module.program)
    return {"flash": float(flash_bytes(writer, CPUS[0])), "ram": float(writer.static_bytes)}
