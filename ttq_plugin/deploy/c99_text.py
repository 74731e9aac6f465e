"""The text of exported C files: constants, comments, header and source."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

KERNELS = "c99_kernels.h"


def number(value: float) -> str:
    """A float constant, exactly: hexadecimal, as C99 has it."""
    return float(np.float32(value)).hex() + "f"


def array(name: str, values: NDArray[np.generic]) -> str:
    """A constant array of floats, int8 or bytes, in lines of at most 100 characters."""
    kind = {"f": "float", "i": "int8_t", "u": "uint8_t"}[values.dtype.kind]
    words = [number(v) for v in values] if kind == "float" else [str(v) for v in values.tolist()]
    width = 4 if kind == "float" else 20
    lines = [", ".join(words[at : at + width]) for at in range(0, len(words), width)]
    return f"static const {kind} {name}[{len(words)}] = {{\n    " + ",\n    ".join(lines) + "\n};"


def plain(text: str) -> str:
    """Fit to stand in a comment of one line."""
    return " ".join(text.replace("*/", "* /").replace("/*", "/ *").split())


def header(name: str, about: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> str:
    """The .h file; ``shapes`` are those of one sample and of its output."""
    upper = name.upper()
    sizes = [int(np.prod(shape)) for shape in shapes]
    forms = [" x ".join(map(str, shape)) for shape in shapes]
    first = plain(about or name)
    return f"""/* {first}. Written by ttq-plugin. */
#ifndef {upper}_H
#define {upper}_H

#define {upper}_INPUTS {sizes[0]} /* {forms[0]}, the last dimension runs fastest */
#define {upper}_OUTPUTS {sizes[1]} /* {forms[1]} */

#ifdef __cplusplus
extern "C" {{
#endif

/* One sample. Buffers are static: one call at a time. Input and output must not overlap. */
void {name}_run(const float input[{upper}_INPUTS], float output[{upper}_OUTPUTS]);

#ifdef __cplusplus
}}
#endif

#endif
"""


def source(name: str, switches: dict[str, bool], sizes: dict[str, int], wide: bool, parts: dict[str, str]) -> str:
    """The .c file.

    Args:
        name: of the files and the function.
        switches: USE_* -> whether this model needs it.
        sizes: of the static buffers PLANE, KEYS and ARENA, in floats.
        wide: whether some dimension needs 32 bits.
        parts: ``constants`` and ``body``.

    Returns:
        The text.
    """
    kernels = files("ttq_plugin.deploy").joinpath(KERNELS).read_text()
    numbers = {switch: int(used) for switch, used in switches.items()} | sizes
    defined = "\n".join(f"#define {key} {number}" for key, number in numbers.items())
    arena = "static float arena[ARENA];\n\n" if sizes["ARENA"] else ""
    math = "#include <math.h>\n" if switches["USE_NORMALISE"] or switches["USE_ATTEND"] else ""
    return f"""#include "{name}.h"

{math}#include <stddef.h>
#include <stdint.h>

{defined}

typedef {"uint32_t" if wide else "uint16_t"} dim;

{kernels}
/* ---- This model. ---- */

{parts["constants"]}

{arena}void {name}_run(const float input[{name.upper()}_INPUTS], float output[{name.upper()}_OUTPUTS])
{{
{parts["body"]}
}}
"""
