"""Compiles the training and inference kernels: run python ttq_plugin/native/build.py, or install the package.

Imports nothing but the standard library, because it also runs where nothing is installed yet.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "training.c"
INFERENCE = HERE / "inference.c"
INTEGER = HERE / "integer.c"
SOURCES = SOURCE, INFERENCE, INTEGER

# OpenMP only as a note to the vectoriser: no threads, no library. Traps and errno would keep it from vectorising.
FLAGS = (
    "-std=c11 -O3 -fPIC -shared -fopenmp-simd -ffp-contract=fast -fno-math-errno -fno-trapping-math -Wno-psabi".split()
)


def library_of(source: Path) -> Path:
    """The path of a source's compiled library."""
    return source.with_name(f"_{source.stem}.so")


LIBRARY = library_of(SOURCE)


def parts_of(source: Path) -> list[Path]:
    """A source and the files that belong to it: ``training.c``, ``training_groups.c`` and ``training_rows.h``."""
    return [source, *sorted(source.parent.glob(f"{source.stem}_*.[ch]"))]


def fingerprint(source: Path = SOURCE) -> int:
    """The first 8 bytes of the SHA-256 of the source and its parts, which the library carries too."""
    digest = hashlib.sha256(b"".join(part.read_bytes() for part in parts_of(source))).digest()
    return int.from_bytes(digest[:8], "big")


def build(library: Path = LIBRARY, source: Path = SOURCE) -> str | None:
    """Compile the kernels.

    Args:
        library: Path of the library; it is replaced in one step, so that running programs keep theirs.
        source: What to compile.

    Returns:
        None, or a line that explains why there is no library.
    """
    command = (os.environ.get("CC") or "cc").split()
    if not shutil.which(command[0]):
        return f"no C compiler ({command[0]}) was found"
    draft = library.with_name(f"{library.name}.{os.getpid()}")
    command += [*FLAGS, f"-DTTQ_SOURCE={fingerprint(source):#x}u", "-o", str(draft)]
    command += [*(str(part) for part in parts_of(source) if part.suffix == ".c"), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            said = (done.stderr.strip() or f"{command[0]} ended with {done.returncode}").splitlines()
            return next((line for line in said if "error" in line), said[0])
        os.replace(draft, library)
    except (OSError, subprocess.TimeoutExpired) as error:
        return " ".join(str(error).split())
    finally:
        draft.unlink(missing_ok=True)
    return None


if __name__ == "__main__":
    for kernels in SOURCES:
        if reason := build(library_of(kernels), kernels):
            sys.exit(f"The native kernels were not built: {reason}.")
        print(f"Built {library_of(kernels)}")
