"""A safetensors file that knows itself: format, version, and a digest of every byte, the header's included.

The header's one metadata entry, ``ttq_packed``, is JSON. Its ``digest`` is the SHA-256 of the whole file with the 64
characters of the digest itself as zeros, so that no byte of the file can change unnoticed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ttq_plugin.errors import InputError
from ttq_plugin.support.digests import IN_JSON, NOTHING, read_header, seal, verify
from ttq_plugin.support.files import write_bytes

KEY = "ttq_packed"
VERSION = 1


class Stored(NamedTuple):
    """The form of a stored tensor: safetensors' word for its dtype, shape, first byte and the one after its last."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


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
    text = json.dumps({"digest": NOTHING, "version": VERSION, **content}, sort_keys=True, separators=(",", ":"))
    apart = {name: t if _alone(t) else t.clone() for name, t in tensors.items()}
    data = bytearray(save(apart, {KEY: text}))
    try:
        seal(data, IN_JSON)
    except InputError as error:
        raise InputError(f"{path} cannot be written: {error} A shorter report makes the header shorter.") from None
    write_bytes(path, data)
    return len(data)


def _alone(tensor: Tensor) -> bool:
    """Whether no other tensor can lie in the same memory: safetensors refuses two that overlap."""
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


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
    header = read_header(path, "packed file")
    content, stored = _content(path, header)
    verify(path, header, IN_JSON, "get another copy of the file")
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
