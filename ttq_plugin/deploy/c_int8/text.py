"""The text of the C files of an integer model."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from ttq_plugin.deploy.c_int8.layout import ELEMENTS, STRUCTS, UNITS
from ttq_plugin.deploy.c_int8.writer import Writer
from ttq_plugin.deploy.integer.arithmetic import Affine
from ttq_plugin.deploy.integer.records import IntegerProgram
from ttq_plugin.support.names import in_comment

PLURAL = {"step": "steps", "loops": "loops", "layer": "layers", "pooling": "poolings", "reduction": "reductions"}
PLURAL |= {"matrices": "matrices", "shares": "shares", "norm": "norms", "embedding": "embeddings"}
PLURAL |= {"recurrence": "recurrences"}
"""Struct -> the name of the array of such."""

PROTOTYPES = {"EACH": "each", "RUN_TERNARY": "run_ternary", "RUN_DENSE": "run_dense", "POOL": "pool"}
PROTOTYPES |= {"REDUCE": "reduce", "MATRICES": "multiply_matrices", "SOFTMAX": "soften", "NORM": "normalise"}
PROTOTYPES |= {"EMBED": "embed", "RECUR": "recur"}
"""Switch -> the kernel that it brings."""

PARTS = ("types.h", "arithmetic.h", "kernels.h", "elements.h", "sequences.h", "recurrent.h", "steps.h")
"""Files of the code in order."""

WIDTH = 20
"""Numbers a line."""


def numbers(values: Sequence[int], indent: str = "        ") -> str:
    """Numbers in lines, between braces."""
    words = [str(value) if value > -(1 << 31) else "(-2147483647 - 1)" for value in values]
    lines = [", ".join(words[at : at + WIDTH]) for at in range(0, len(words), WIDTH)]
    return "{\n" + indent + f",\n{indent}".join(lines) + "\n    }"


def _value(value: Any) -> str:
    return "{" + ", ".join(map(str, value)) + "}" if isinstance(value, list | tuple) else str(value)


def data_text(writer: Writer) -> str:
    """The constants: one struct, whose layout the sizes are computed from."""
    data = writer.data
    members, values = [], []
    for struct in STRUCTS:
        entries = data.structs.get(struct.name, [])
        if not entries:
            continue
        members.append(f"    {struct.name} {PLURAL[struct.name]}[{len(entries)}];")
        rows = []
        for fields, comment in entries:
            inside = ", ".join(_value(fields[name]) for name, _, _ in struct.fields)
            rows.append(f"        {{{inside}}} /* {in_comment(comment)} */")
        values.append("    {\n" + ",\n".join(rows).replace(" */,", " */,") + "\n    }")
    for name, kind in (("words", "int32_t"), ("halves", "int16_t"), ("bytes", "uint8_t")):
        array = getattr(data, name) or [0]
        members.append(f"    {kind} {name}[{len(array)}];")
        values.append("    " + numbers(array))
    joined, filled = "\n".join(members), ",\n".join(values)
    return f"""struct data {{
{joined}
}};

static const struct data data = {{
{filled}
}};
"""


def source(writer: Writer, name: str) -> str:
    """The .c file.

    Args:
        writer: The constants and what they need.
        name: Name of the files and the function.

    Returns:
        The text.
    """
    members = ["dim positive, negative, taps[TAPS];"] if writer.taps else []
    members += ["uint8_t edges[TAPS][2];"] if writer.edges else []
    members += [f"int16_t state[{writer.states}];"] if writer.states else []
    members += [f"int8_t arena[{writer.placement.size}];"] if writer.placement.size else []
    declared = "\n    ".join(members)
    work = f"static struct {{\n    {declared}\n}} work;\n" if members else ""
    between = f"#define TAPS {writer.taps}\n\n{prototypes(writer.used)}\n\n{work}\n{data_text(writer)}"
    return f'#include "{name}.h"\n\n' + code(writer.used, writer.data.dim, between, name)


def prototypes(used: dict[str, bool]) -> str:
    """Declarations of the kernels that the constants name."""
    found = [f"static kernel {kernel};" for switch, kernel in PROTOTYPES.items() if used[switch]]
    for kind, functions in (("element", ELEMENTS), ("unit", UNITS)):
        found += [f"static {kind} {each};" for switch, each in functions.items() if used[switch]]
    return "\n".join(found)


def code(used: dict[str, bool], dim: int, between: str, name: str) -> str:
    """Kernels and the function that goes through the steps.

    Args:
        used: Switches.
        dim: Bytes of a ``dim``.
        between: Declarations of working memory and constants.
        name: Name of the function.

    Returns:
        The text.
    """
    switches = "\n".join(f"#define USE_{key} {int(value)}" for key, value in used.items())
    folder = files("ttq_plugin.deploy.c_int8")
    kernels = "\n".join(folder.joinpath(part).read_text() for part in PARTS)
    kernels = kernels.replace("/*@DATA@*/", f"/* ---- This model. ---- */\n\n{between}")
    return f"""{switches}

typedef {"uint16_t" if dim == 2 else "uint32_t"} dim;

{kernels}
void {name}_run(const int8_t input[{name.upper()}_INPUTS], int8_t output[{name.upper()}_OUTPUTS])
{{
    run_steps(data.steps, input, output);
}}
"""


def header(program: IntegerProgram, name: str, about: str) -> str:
    """The .h file.

    Args:
        program: The operations.
        name: Name of the files and the function.
        about: One line for the first comment.

    Returns:
        The text.
    """
    upper, shapes = name.upper(), program.shapes
    forms = ["; ".join(" x ".join(map(str, shape)) or "1" for shape in several) for several in shapes]
    sizes = [program.input.size, sum(int(np.prod(shape)) for shape in shapes[1])]
    given, result = program.given, program.result
    return f"""/* {in_comment(about or name)}. Written by ttq-plugin. No floating point, no library, no heap. */
#ifndef {upper}_H
#define {upper}_H

#include <stdint.h>

#define {upper}_INPUTS {sizes[0]} /* {forms[0]}, the last dimension runs fastest */
#define {upper}_OUTPUTS {sizes[1]} /* {forms[1]} */

/* An integer q represents SCALE * (q - ZERO). An input x becomes round(x / SCALE) + ZERO, clamped to -128 to 127. */
{_indices(program)}{_grid(upper, "INPUT", given)}
{_grid(upper, "OUTPUT", result)}

#ifdef __cplusplus
extern "C" {{
#endif

/* One sample. Memory is static: one call at a time. Input and output must not overlap. */
void {name}_run(const int8_t input[{upper}_INPUTS], int8_t output[{upper}_OUTPUTS]);

#ifdef __cplusplus
}}
#endif

#endif
"""


def _indices(program: IntegerProgram) -> str:
    """A comment on inputs that are indices."""
    of_indices = [f"input {at}: {width} bytes" for at, (_, width, rows) in enumerate(program.parts) if rows]
    if not of_indices:
        return ""
    return f"/* Indices are unsigned, lowest byte first: {', '.join(of_indices)} each. */\n"


def _grid(upper: str, which: str, grid: Affine) -> str:
    return f"#define {upper}_{which}_SCALE {grid.scale!r}\n#define {upper}_{which}_ZERO ({grid.zero})"


def test_source(name: str, inputs: list[list[int]], outputs: list[list[int]]) -> str:
    """The test program.

    Args:
        name: Name of the files and the function.
        inputs: Integers of some samples.
        outputs: What must come out.

    Returns:
        The text.
    """
    upper, count = name.upper(), len(inputs)
    vectors = [numbers([n for sample in several for n in sample], "    ") for several in (inputs, outputs)]
    return f"""/* Runs {name} on samples whose results are known; {name}_test() counts the integers that differ. */
#include "{name}.h"

static const int8_t given[{count} * {upper}_INPUTS] = {vectors[0]};

static const int8_t expected[{count} * {upper}_OUTPUTS] = {vectors[1]};

int {name}_test(void);

int {name}_test(void)
{{
    static int8_t found[{upper}_OUTPUTS];
    int sample, i, wrong = 0;
    for (sample = 0; sample < {count}; sample++) {{
        {name}_run(given + sample * {upper}_INPUTS, found);
        for (i = 0; i < {upper}_OUTPUTS; i++)
            wrong += found[i] != expected[sample * {upper}_OUTPUTS + i];
    }}
    return wrong;
}}

#ifndef {upper}_TEST_WITHOUT_MAIN
int main(void)
{{
    return {name}_test() != 0;
}}
#endif
"""
