"""Opens a compiled library if it was built from the source next to it."""

from __future__ import annotations

import ctypes
import os
import warnings
from ctypes import c_uint64
from pathlib import Path

from ttq_plugin.native.build import fingerprint, library_of


def open_library(source: Path, needed: str) -> ctypes.CDLL | None:
    """Open the library of a source.

    Args:
        source: The C file.
        needed: Name of a function that the library must have.

    Returns:
        None where no compiler was at installation, with ``TTQ_NATIVE=0``, and, with a warning, if what is there cannot
        be used.
    """
    library = library_of(source)
    if os.environ.get("TTQ_NATIVE") == "0" or not library.exists():
        return None
    reason = "was built from another source"
    try:
        kernels = ctypes.CDLL(str(library))
        kernels.ttq_source.restype = c_uint64
        if kernels.ttq_source() == fingerprint(source):
            getattr(kernels, needed)
            return kernels
    except (OSError, AttributeError) as error:
        reason = f"cannot be used ({error})"
    warnings.warn(f"{library} {reason}; torch is used instead, which is slower. Reinstall ttq-plugin.", stacklevel=3)
    return None
