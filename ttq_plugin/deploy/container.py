"""A safetensors file that knows itself: format, version, and a digest of every byte, the header's included.

The header's one metadata entry, ``ttq_packed``, is JSON. Its ``digest`` is the SHA-256 of the whole file with the 64
characters of the digest itself as zeros, so that no byte of the file can change unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ttq_plugin.errors import InputError
from ttq_plugin.files import write_whole

KEY = "ttq_packed"
VERSION = 1
LARGEST_HEADER = 1 << 24
"""Bytes; a header has some hundred bytes a tensor."""


class Stored(NamedTuple):
    """The form of a stored tensor: safetensors' word for its dtype, shape, first byte and the one after its last."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


_CHUNK = 1 << 20
_NOTHING = "0" * 64
_DIGEST = re.compile(rb'\\"digest\\":\\"([0-9a-f]{64})\\"')


def write(path: Path, tensors: dict[str, Tensor], content: dict[str, Any]) -> int:
    """Write the file, whole or not at all.

    Args:
        path: where to; its folder is made if needed.
        tensors: contiguous, on the CPU.
        content: JSON, kept in the header.

    Returns:
        The file's size in bytes.

    Raises:
        InputError: if the place cannot be written, or the header would be too long.
    """
    text = json.dumps({"digest": _NOTHING, "version": VERSION, **content}, sort_keys=True, separators=(",", ":"))
    data = bytearray(save(tensors, {KEY: text}))
    start = 8 + int.from_bytes(data[:8], "little")
    places = list(_DIGEST.finditer(data, 8, start))
    if start - 8 > LARGEST_HEADER or len(places) != 1:
        raise InputError(
            f"the header of {path} must have at most {LARGEST_HEADER} bytes and one digest, got {start - 8} bytes and "
            f"{len(places)}; give save_packed a shorter report."
        )
    data[slice(*places[0].span(1))] = hashlib.sha256(data).hexdigest().encode()
    write_whole(path, lambda temporary: Path(temporary).write_bytes(data))
    return len(data)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """The header's content, after every byte of the file was checked.

    Args:
        path: a file that ``write`` wrote.

    Returns:
        The content, and the form of each tensor.

    Raises:
        InputError: if the file is missing, foreign, of another version, cut off or damaged.
    """
    if not path.is_file():
        raise InputError(f"the packed file {path} does not exist; `save_packed` and `ttq compress --out` write one.")
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(LARGEST_HEADER, size - 8):
                raise InputError(
                    f"{path} is cut off, or no packed file: it has {size} bytes and its header claims {length}."
                )
            header = file.read(length)
            content, stored = _content(path, header)
            places = list(_DIGEST.finditer(header))
            if len(places) != 1:
                raise InputError(f"{path} is damaged: its header must hold one digest, got {len(places)}.")
            digest = hashlib.sha256(length.to_bytes(8, "little"))
            first, last = places[0].span(1)
            digest.update(header[:first] + _NOTHING.encode() + header[last:])
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"the packed file {path} cannot be read ({error.strerror or error}).") from None
    if digest.hexdigest().encode() != places[0][1]:
        raise InputError(f"{path} is damaged: its bytes do not fit its digest; get another copy of the file.")
    return content, stored


def tensors(path: Path) -> Any:
    """The file's tensors, opened lazily (safetensors' ``safe_open``).

    Args:
        path: a file that ``read`` has checked.

    Returns:
        A context manager.

    Raises:
        InputError: if safetensors refuses the header.
    """
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or not a safetensors file ({error}).") from None


def _content(path: Path, header: bytes) -> tuple[dict[str, Any], dict[str, Stored]]:
    """The JSON of the metadata entry and the tensors' forms; raises InputError unless this version wrote them."""
    try:
        parsed = json.loads(header)
        metadata = parsed.pop("__metadata__", {})
        stored = {name: Stored(e["dtype"], tuple(e["shape"]), *e["data_offsets"]) for name, e in parsed.items()}
        content = json.loads(metadata[KEY]) if KEY in metadata else None
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        raise InputError(f"{path} is damaged or not a safetensors file (its header is not one).") from None
    if content is None:
        raise InputError(
            f"{path} is not a packed file: its header has no entry {KEY!r}; `save_packed` and `ttq compress --out` "
            "write one."
        )
    version = content.get("version") if isinstance(content, dict) else None
    if type(version) is not int or version != VERSION:
        raise InputError(
            f"{path} must have packed format {VERSION}, got {str(version)[:20]!r}; it is damaged, or needs the "
            "ttq-plugin that wrote it."
        )
    return content, stored
