"""Sizes of the C functions on Cortex-M, as measured once with a compiler.

Every function of the C code is compiled on its own (``noipa``), so that its bytes depend on nothing but the processor,
the width of a ``dim`` and the switches that it reads. ``code_sizes.json`` holds what arm-none-eabi-gcc 12.2 gave with
``FLAGS``; other compilers and flags give other bytes of code, never of data. This module run as a program makes the
table again.
"""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from ttq_plugin.deploy.c_int8.layout import ELEMENTS, UNITS, aligned
from ttq_plugin.deploy.c_int8.text import PROTOTYPES, code, prototypes
from ttq_plugin.deploy.c_int8.writer import Writer

CPUS = ("cortex-m0", "cortex-m3")
"""Processors in the table; a Cortex-M0+ runs the code of an M0, and an M4 or M7 that of an M3."""

FLAGS = ("-std=c99", "-mthumb", "-Os", "-ffunction-sections", "-fdata-sections")
"""What the table holds for."""

TABLE = "code_sizes.json"

READ = {
    "next": ("GAPS", "TRITS", "DELTAS"),
    "collect": ("EDGES",),
    "ternary_sum": ("EDGES",),
    "pool": ("MEAN_POOL",),
    "channel_sum": ("TERNARY", "DENSE"),
    "recur": ("TERNARY",),
}
"""Functions that read switches, and which."""

OWNERS = {
    **{"product": "PRODUCT", "nearest": "FINISH", "finish": "FINISH", "raised": "TERM", "term": "TERM"},
    **{"quotient": "QUOTIENT", "positions": "POSITIONS", "next_gap": "GAPS", "next_trit": "TRITS"},
    **{"next_delta": "DELTAS", "next": "TERNARY", "begin": "TERNARY", "collect": "TERNARY", "gather": "TERNARY"},
    **{"gather_inside": "EDGES", "ternary_sum": "TERNARY", "run_ternary": "RUN_TERNARY", "dense_sum": "DENSE"},
    **{"run_dense": "RUN_DENSE", "each": "EACH", "copy": "COPY", "look_up": "TABLE", "add": "ADD"},
    **{"multiply": "MULTIPLY", "fold": "REDUCE", "reduce": "REDUCE", "span": "POOL", "pool": "POOL"},
    **{"multiply_matrices": "MATRICES", "power": "SOFTMAX", "soften": "SOFTMAX", "inverse_root": "NORM"},
    **{"normalise": "NORM", "embed": "EMBED", "channel_sum": "RECUR", "within": "RECUR", "bent": "RECUR"},
    **{"opened": "OPENED", "lstm": "LSTM", "gru": "GRU", "rnn": "RNN", "gates_of": "RECUR", "recur": "RECUR"},
    **{"run_steps": "", "model_run": ""},
}
"""Functions in the order of the code -> the switch that brings them."""

NAME = "model"


def code_bytes(used: dict[str, bool], dim: int, cpu: str) -> int:
    """Number of bytes of code that are linked for a model.

    Args:
        used: Switches of the model.
        dim: Bytes of a ``dim``.
        cpu: One of ``CPUS``.

    Returns:
        The bytes, including those of the compiler's own library.
    """
    table, at = _table()[cpu], 0
    for function in OWNERS:
        if not OWNERS[function] or used[OWNERS[function]]:
            size, alignment = table[key_of(function, used, dim)]
            at = aligned(at, alignment) + size
    if used["PRODUCT"]:
        size, alignment = table["library"]
        at = aligned(at, alignment) + size
    return at


def flash_bytes(writer: Writer, cpu: str) -> int:
    """Bytes of flash of a linked model: code and constants.

    Args:
        writer: The model's constants.
        cpu: One of ``CPUS``.

    Returns:
        The bytes.
    """
    return aligned(code_bytes(writer.used, writer.data.dim, cpu), 4) + writer.data.size()


def key_of(function: str, used: dict[str, bool], dim: int) -> str:
    """The key of everything that the size of a function depends on."""
    read = [switch.lower() for switch in READ.get(function, ()) if used[switch]]
    return " ".join([function, f"dim{8 * dim}", *read])


@functools.cache
def _table() -> dict[str, dict[str, list[int]]]:
    found: dict[str, dict[str, list[int]]] = json.loads(
        files("ttq_plugin.deploy.c_int8").joinpath(TABLE).read_text(encoding="utf-8")
    )
    return found


def _variants() -> Iterator[dict[str, bool]]:
    """Sets of switches under which every function occurs in each of its forms."""
    every = dict.fromkeys({switch for switch in OWNERS.values() if switch} | {"LAYER", "MEAN_POOL"}, True)
    forms = [f for f in itertools.product((False, True), repeat=3) if any(f)]
    for form, (edges, means) in itertools.product(forms, itertools.product((False, True), repeat=2)):
        yield every | dict(zip(READ["next"], form, strict=True)) | {"EDGES": edges, "MEAN_POOL": means}
    yield every | dict.fromkeys(("DENSE", "RUN_DENSE"), False)
    yield every | dict.fromkeys(("TERNARY", "RUN_TERNARY", "EDGES", *READ["next"]), False)


def measured(cpu: str, compiler: str = "arm-none-eabi-gcc") -> dict[str, list[int]]:
    """Compile every function in every form.

    Args:
        cpu: The processor.
        compiler: The command; nm and readelf must have its prefix.

    Returns:
        Bytes and alignment by ``key_of``; ``library`` is what the compiler's library adds.
    """
    found: dict[str, list[int]] = {}
    command = [compiler, *FLAGS, f"-mcpu={cpu}"]
    tools = compiler.removesuffix("gcc")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.c"
        for used, dim in itertools.product(_variants(), (2, 4)):
            path.write_text(_skeleton(used, dim), encoding="utf-8")
            _run(*command, "-c", "-o", str(path.with_suffix(".o")), str(path))
            for function, size in _sections(tools, path.with_suffix(".o")):
                found[key_of(function, used, dim)] = size
        path.write_text("long long _start(long long a, long long b) { return a * b; }", encoding="utf-8")
        elf = path.with_suffix(".elf")
        _run(*command, "-c", "-o", str(path.with_suffix(".o")), str(path))
        _run(compiler, f"-mcpu={cpu}", "-mthumb", "-nostdlib", "-o", str(elf), str(path.with_suffix(".o")), "-lgcc")
        own = dict(_sections(tools, path.with_suffix(".o")))["_start"]
        total = int(_run(f"{tools}size", "-A", str(elf)).split(".text")[1].split()[0])
        found["library"] = [max(0, total - aligned(own[0], 4)), 4]
    return dict(sorted(found.items()))


def _skeleton(used: dict[str, bool], dim: int) -> str:
    """The code around one step that does nothing."""
    kernels, elements, units = (
        [name for switch, name in names.items() if used[switch]] for names in (PROTOTYPES, ELEMENTS, UNITS)
    )
    steps = ", ".join(f"{{{kernel}, 0, 0, 0, 0, 64}}" for kernel in kernels)
    between = f"""{prototypes(used)}
static struct {{ dim positive, negative; int16_t state[1]; }} work;
static const struct {{ step steps[{len(kernels)}]; }} data = {{{{{steps}}}}};
"""
    kept = f"element *const elements[] = {{{', '.join(elements)}}};\nunit *const units[] = {{{', '.join(units)}}};\n"
    sizes = f"#include <stdint.h>\n#define {NAME.upper()}_INPUTS 1\n#define {NAME.upper()}_OUTPUTS 1\n"
    return sizes + code(used, dim, between, NAME) + kept


def _sections(tools: str, path: Path) -> Iterator[tuple[str, list[int]]]:
    """Bytes and alignment of each function's section."""
    for line in _run(f"{tools}readelf", "-SW", str(path)).splitlines():
        words = line.replace("[", " ").replace("]", " ").split()
        if len(words) > 6 and words[1].startswith(".text.") and words[2] == "PROGBITS":
            yield words[1].removeprefix(".text."), [int(words[5], 16), int(words[-1])]


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


if __name__ == "__main__":
    text = json.dumps({cpu: measured(cpu, *sys.argv[1:]) for cpu in CPUS}, indent=1)
    Path(__file__).with_name(TABLE).write_text(text + "\n", encoding="utf-8")
