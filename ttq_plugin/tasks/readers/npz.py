"""Reading NumPy's archives: what their arrays claim to be is known before any of them takes memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.support.limits import LARGEST_ARRAY, check_bytes, check_size


class Header(NamedTuple):
    """What an array in an archive claims to be."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def npz_headers(path: Path, names: Iterable[str], form: str) -> dict[str, Header]:
    """Shapes and types of arrays in an ``.npz``, none of which is read.

    Args:
        path: The file; it exists.
        names: The names of the arrays.
        form: What is needed, for the errors.

    Returns:
        A header for each name.

    Raises:
        InputError: If the file is damaged or not such an archive, lacks an array, or one claims more than it has.
    """
    check_size(path, LARGEST_ARRAY, form)
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: member for member in archive.infolist()}
            for name in names:
                if f"{name}.npy" not in members:
                    raise InputError(f"{path} lacks the array {name}; {form}.")
                member = members[f"{name}.npy"]
                with archive.open(member) as file:
                    found[name] = _header(file)
                    begins = file.tell()
                shape, dtype = found[name]
                if dtype.hasobject:
                    why = f"{name} holds Python objects, which are never loaded"
                    raise InputError(f"{path} cannot be read ({why}); {form}.")
                check_bytes(f"{path}: {name}", shape, dtype.itemsize, form, LARGEST_ARRAY // 2)
                if member.file_size != begins + dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
                    raise InputError(f"{path}: {name} is damaged: its size does not match its shape {shape}; {form}.")
    except InputError:
        raise
    except Exception as error:  # whatever zipfile and NumPy meet in a damaged file
        raise InputError(_damaged(path, error, form)) from None
    return found


def npz_arrays(path: Path, names: Iterable[str], form: str) -> dict[str, NDArray[Any]]:
    """The arrays themselves; arguments and errors as ``npz_headers``, which must have been asked before."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except Exception as error:  # as above, a failed decompression or checksum among it
        raise InputError(_damaged(path, error, form)) from None


def _header(file: Any) -> Header:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return Header(shape, dtype)


def _damaged(path: Path, error: Exception, form: str) -> str:
    why = " ".join(str(error).split())[:200] or type(error).__name__
    return f"{path} cannot be read, it is damaged or not an .npz file ({why}); {form}."
