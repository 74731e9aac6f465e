"""Reads files of format 1, a safetensors tensor for each part and JSON in the header, as they were written until 2026.

The header's one metadata entry, ``ttq_packed``, is JSON. Its ``digest`` is the SHA-256 of the whole file with the 64
characters of the digest itself as zeros.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ttq_plugin.core.model.matrices import Layout
from ttq_plugin.deploy.file.codes import Bitmaps
from ttq_plugin.deploy.file.entries import DTYPES, TABLE, Identity, data_of, decode
from ttq_plugin.deploy.file.entropy import Damaged
from ttq_plugin.errors import InputError
from ttq_plugin.support.digests import IN_JSON, verify


class Form(NamedTuple):
    """Form of a stored tensor: safetensors' name of its dtype, its shape, first byte, and the one after its last."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Reader:
    """An open file of format 1, every byte of which was compared with its digest."""

    def __init__(self, path: Path, header: bytes, parsed: dict[str, Any], content: dict[str, Any]) -> None:
        verify(path, header, IN_JSON, "get another copy of the file")
        forms = {
            name: Form(form["dtype"], tuple(form["shape"]), *form["data_offsets"])
            for name, form in parsed.items()
            if name != "__metadata__"
        }
        self._stored: dict[str, dict[str, Any]] = dict(content["entries"])
        self._stored |= {name: {"as": "raw", "crc": crc} for name, crc in content["raw"].items()}
        self.about: dict[str, Any] = {key: content[key] for key in ("task", "method", "architecture", "report", "more")}
        self.entries = {name: _complete(name, entry, forms) for name, entry in self._stored.items()}
        _check_names(self.entries, set(forms))
        try:
            self._file: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is damaged or not a safetensors file ({error}).") from None

    def get(self, name: str, layout: Layout | None, known: Bitmaps | None) -> tuple[Tensor, Bitmaps | None]:
        """One tensor; see ``decode`` for the arguments."""
        told = self._stored[name]
        stored = self._file.get_tensor(name)
        table = self._file.get_tensor(name + TABLE) if name + TABLE in self._file.keys() else None  # noqa: SIM118
        if known is None and _crc([part for part in (stored, table) if part is not None]) != told["crc"]:
            raise Damaged("its bytes do not match their checksum")
        value, maps = decode(self.entries[name], stored, table, layout, known)
        if known is None and "id" in told and _identity(value) != told["id"]:
            raise Damaged("its values do not match their checksum")
        return value, maps

    def check(self) -> None:
        """Nothing remains to be checked, because each tensor has its own checksum."""

    def close(self) -> None:
        """Let go of the file."""
        self._file.__exit__(None, None, None)


def _complete(name: str, told: dict[str, Any], forms: dict[str, Form]) -> dict[str, Any]:
    """The entry with what the tensors' forms add; raises ValueError or KeyError unless it is one of ours."""
    if told["as"] == "same":
        return {"as": "same", "of": told["of"]}
    entry: dict[str, Any] = {key: told[key] for key in ("as", "kind", "shape", "dtype") if key in told}
    if told["as"] == "raw":
        entry |= {"shape": list(forms[name].shape), "dtype": forms[name].dtype}
    elif not isinstance(told["id"], str):
        raise Damaged(f"the checksum of {name}")
    parts = [forms[part] for part in (name, name + TABLE) if part in forms]
    entry["bytes"] = sum(part.end - part.begin for part in parts)
    sizes = [*entry["shape"], entry["bytes"], told["crc"]]
    if entry["dtype"] not in DTYPES or not all(type(size) is int and size >= 0 for size in sizes):
        raise Damaged(f"the form of {name}")
    if "kind" in entry and (forms[name].dtype != "U8" or len(forms[name].shape) != 1 or len(parts) != 2):
        raise Damaged(f"the codes of {name}")
    return entry


def _check_names(entries: dict[str, dict[str, Any]], stored: set[str]) -> None:
    """Raise Damaged unless entries and stored tensors belong together."""
    held = {name for name, entry in entries.items() if entry["as"] != "same"}
    tables = {name for name in stored if name.endswith(TABLE)}
    if odd := ((stored - tables) ^ held) | ({name.removesuffix(TABLE) for name in tables} - held):
        raise Damaged(min(odd))


def _identity(value: Tensor) -> str:
    """A short hash of a tensor's dtype, shape and values."""
    hashed = Identity()
    hashed.add(value)
    return hashed.digest().hex()


def _crc(parts: list[Tensor]) -> int:
    """CRC-32 of the stored bytes."""
    value = 0
    for part in parts:
        value = zlib.crc32(data_of(part), value)
    return value
