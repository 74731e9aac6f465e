"""Counts the instructions of an integer network's C code, if a compiler and valgrind are available."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ttq_plugin.deploy.c_int8.export import VECTORS, export_int8
from ttq_plugin.deploy.integer.module import IntegerModule
from ttq_plugin.support.inputs import batch_size, repeated

COLLECTED = re.compile(r"Collected\s*:\s*(\d+)")

SECONDS = 300
"""Largest time that a counted run may take; counting is about fifty times as slow as running."""


def counted(module: IntegerModule, samples: Any) -> float | None:
    """Count the instructions of one inference with callgrind, on this machine's processor, compiled with ``-Os``.

    Only the model's function is counted, neither the test program's comparison nor the start of the process. The number
    is for comparing networks; a Cortex-M executes other instructions.

    Args:
        module: The result of ``integerize``.
        samples: Inputs, of which the first ``VECTORS`` are used.

    Returns:
        Instructions per sample; None without a C compiler or valgrind, or if either fails.
    """
    compiler, counter = shutil.which("cc"), shutil.which("valgrind")
    if compiler is None or counter is None:
        return None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = repeated(samples, min(VECTORS, batch_size(samples)))
        written = export_int8(module, folder, samples=given)
        program = folder / "test"
        built = [compiler, "-std=c99", "-Os", "-o", str(program), str(written.source), str(written.test)]
        counts = f"--callgrind-out-file={folder / 'counts'}"
        run = [counter, "--tool=callgrind", "--toggle-collect=model_run", counts, str(program)]
        try:
            for command in (built, run):
                done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
    found = COLLECTED.search(done.stderr)
    return int(found[1]) / batch_size(given) if found else None
