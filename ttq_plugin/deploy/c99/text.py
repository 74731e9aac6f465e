"""The text of exported C files: constants, comments, header and source."""

from __future__ import annotations

import re
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.support.names import in_comment

KERNELS = ("weights.h", "kernels.h", "more.h")

C_CODE = {
    "ADD": "a + b",
    "SUBTRACT": "a - b",
    "MULTIPLY": "a * b",
    "DIVIDE": "a / b",
    "MAXIMUM": "a != a || a > b ? a : b",
    "MINIMUM": "a != a || a < b ? a : b",
    "POWER": "powf(a, b)",
    "SIGMOID": "1.0f / (1.0f + expf(-a))",
    "SILU": "a / (1.0f + expf(-a))",
    "GELU": "0.5f * a * (1.0f + erff(a * 0.707106781f))",
    "GELU_TANH": "0.5f * a * (1.0f + tanhf(0.797884561f * (a + 0.044715f * a * a * a)))",
    "RSQRT": "1.0f / sqrtf(a)",
    "SOFTPLUS": "a > 20.0f ? a : log1pf(expf(a))",
    "ELU": "a > 0.0f ? a : expm1f(a)",
    "NEGATIVE": "-a",
    "RECIPROCAL": "1.0f / a",
    "STEEPER": "a < 0.0f ? a * b : a",
    "GREATER": "a > b ? 1.0f : 0.0f",
    "GREATER_EQUAL": "a >= b ? 1.0f : 0.0f",
    "LESS": "a < b ? 1.0f : 0.0f",
    "LESS_EQUAL": "a <= b ? 1.0f : 0.0f",
    "EQUAL": "a == b ? 1.0f : 0.0f",
    "DIFFERENT": "a != b ? 1.0f : 0.0f",
    "KEEP": "b != 0.0f ? a : 0.0f",
    "DROP": "b != 0.0f ? 0.0f : a",
    **{name.upper(): f"{name}f(a)" for name in ("tanh", "exp", "sqrt", "log", "erf", "sin", "cos", "fabs", "floor")},
}
"""Name of an operation in C -> what it does to the number a, or to a and b; what is undefined stays so."""


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


def header(name: str, about: str, shapes: tuple[list[tuple[int, ...]], list[tuple[int, ...]]]) -> str:
    """The .h file; ``shapes`` are those of one sample's inputs and outputs."""
    upper = name.upper()
    sizes = [sum(int(np.prod(shape)) for shape in several) for several in shapes]
    forms = ["; ".join(" x ".join(map(str, shape)) or "1" for shape in several) for several in shapes]
    first = in_comment(about or name)
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


def applied(operations: dict[str, str]) -> str:
    """The function that does what ``map`` does to each number; ``operations`` in C by their names."""
    names = ", ".join(["COPY", *operations])
    cases = "".join(f"    case {what}:\n        return {code};\n" for what, code in operations.items())
    return f"""enum {{ {names} }};

static float apply(int what, float a, float b)
{{
    (void)b;
    switch (what) {{
{cases}    default:
        return a;
    }}
}}
"""


def source(
    name: str,
    switches: dict[str, bool],
    sizes: dict[str, int],
    operations: dict[str, str],
    wide: bool,
    parts: dict[str, str],
) -> str:
    """The .c file.

    Args:
        name: Name of the files and the function.
        switches: USE_* -> whether this model needs it.
        sizes: The sizes of the static buffers PLANE, KEYS, HIDDEN and ARENA, in floats.
        operations: What is done to single numbers, in C, by name.
        wide: Whether some dimension needs 32 bits.
        parts: ``constants`` and ``body``.

    Returns:
        The text.
    """
    kernels = "".join(files("ttq_plugin.deploy.c99").joinpath(each).read_text() for each in KERNELS)
    numbers = {switch: int(used) for switch, used in switches.items()} | sizes
    defined = "\n".join(f"#define {key} {number}" for key, number in numbers.items())
    arena = "static float arena[ARENA];\n\n" if sizes["ARENA"] else ""
    curves = any(re.search(r"f\(", code) for code in operations.values())
    needed = curves or any(switches[f"USE_{kind}"] for kind in ("NORMALISE", "ATTEND", "RECUR"))
    math = "#include <math.h>\n" if needed else ""
    function = applied(operations) + "\n" if switches["USE_MAP"] else ""
    return f"""#include "{name}.h"

{math}#include <stddef.h>
#include <stdint.h>

{defined}

typedef {"uint32_t" if wide else "uint16_t"} dim;

{function}{kernels}
/* ---- This model. ---- */

{parts["constants"]}

{arena}void {name}_run(const float input[{name.upper()}_INPUTS], float output[{name.upper()}_OUTPUTS])
{{
{parts["body"]}
}}
"""
