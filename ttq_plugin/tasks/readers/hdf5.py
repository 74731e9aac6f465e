"""How the datasets of an HDF5 file are stored: what would take memory, time or other files is refused before."""

from __future__ import annotations

import zlib
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.support.limits import LARGEST_CHUNK, LONGEST_VALUE, check_bytes
from ttq_plugin.tasks.readers.hits_recordings import FORM

MOST_CHUNKS = 100_000
"""Parts of a dataset."""

_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000
_KNOWN = {_DEFLATE: "gzip", _SHUFFLE: "shuffle", _FLETCHER32: "fletcher32", _LZF: "lzf"}
"""HDF5's numbers of the filters that are read."""


def is_readable(dtype: np.dtype[Any]) -> bool:
    """Whether values of a type are numbers or text, not references to other objects or lists of any length."""
    import h5py

    return dtype.kind != "O" or h5py.check_string_dtype(dtype) is not None


def words_of(dtype: np.dtype[Any]) -> str:
    """A type in words: for h5py, references and texts are the same kind of object."""
    import h5py

    if h5py.check_ref_dtype(dtype) is not None:
        return "reference (as MATLAB writes cells; write the names themselves)"
    return "list" if h5py.check_vlen_dtype(dtype) is not None else str(dtype)


def check_storage(where: str, dataset: Any) -> None:
    """Refuse a dataset that lies in other files, or whose parts would become larger than they should.

    Args:
        where: File and dataset, for the message.
        dataset: h5py's.

    Raises:
        InputError: If it is one of these, or compressed in a way that is not known.
    """
    if dataset.is_virtual or dataset.external is not None:
        raise InputError(f"{where} lies in another file; copy it into this one; {FORM}.")
    if dataset.chunks is None:
        return
    check_bytes(f"{where}: a part of it", dataset.chunks, dataset.dtype.itemsize, FORM, LARGEST_CHUNK)
    if int(np.prod([-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True)])) > MOST_CHUNKS:
        raise InputError(f"{where} must have at most {MOST_CHUNKS} parts, but it has more; {FORM}.")
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    if strange := [number for number in filters if number not in _KNOWN]:
        raise InputError(
            f"{where} must be compressed by one of {', '.join(_KNOWN.values())}, got filter {strange[0]}; {FORM}."
        )
    if _DEFLATE in filters:
        _check_deflated(where, dataset, filters)


def _check_deflated(where: str, dataset: Any, filters: list[int]) -> None:
    """HDF5 makes room for whatever a part becomes, even if that is more than the part holds."""
    size = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize
    starts = product(*(range(0, n, c) for n, c in zip(dataset.shape, dataset.chunks, strict=True)))
    stored = {dataset.id.get_chunk_info(index).chunk_offset for index in range(dataset.id.get_num_chunks())}
    for start in starts:
        if start not in stored:
            continue
        mask, raw = dataset.id.read_direct_chunk(start)
        if mask >> filters.index(_DEFLATE) & 1:  # this part is not compressed
            continue
        room = size + 4 * (_FLETCHER32 in filters)
        if len(zlib.decompressobj().decompress(raw, room + 1)) > room:
            raise InputError(f"{where}: the part at {start} holds more than {size} bytes; {FORM}.")


def read_subjects(path: Path, dataset: Any) -> NDArray[Any]:
    """A dataset of names, numbers or text; texts are read one by one, because their lengths are known only then.

    Args:
        path: The file, for the message.
        dataset: h5py's, one-dimensional.

    Returns:
        Numbers or texts, shape (n,).

    Raises:
        InputError: If a text is too long.
    """
    if dataset.dtype.kind != "O":
        return np.asarray(dataset)
    names = []
    for row in range(len(dataset)):
        name = dataset[row]
        if len(name) > LONGEST_VALUE:
            raise InputError(f"{path}: the subject in row {row} has {len(name)} characters; {FORM}.")
        names.append(name)
    return np.array(names, dtype=object)
