"""One tensor of a packed file: what is stored of it, what its header entry says, and how both are checked."""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

import torch
from torch import Tensor

from ttq_plugin.core.model.matrices import Layout
from ttq_plugin.deploy.file.codes import Bitmaps, Packed, pack, read, values
from ttq_plugin.deploy.file.container import Stored
from ttq_plugin.deploy.file.entropy import Damaged
from ttq_plugin.deploy.file.rest import restore, shrink

TABLE = "#table"
"""Ends the name of the tensor that holds a packed weight's scales."""

DTYPES = {
    "F32": torch.float32,
    "F64": torch.float64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""By safetensors' words."""

WORDS = {dtype: word for word, dtype in DTYPES.items()}


def make_entry(name: str, value: Tensor, layout: Layout | None, rest: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors that one tensor is stored as, and its entry in the header; see ``save_packed`` for ``rest``."""
    packed = pack(value, layout)
    if packed is not None:
        parts = {name: torch.from_numpy(packed.payload.copy()), name + TABLE: packed.table}
        entry: dict[str, Any] = {"as": packed.scheme, "kind": packed.kind}
        back = value
    else:
        entry, small, scales = shrink(name, value, rest)
        parts = {name: small} | ({} if scales is None else {name + TABLE: scales})
        back = restore(entry["as"], small, scales, value.dtype)
    entry["crc"] = _crc(list(parts.values()))
    if entry["as"] != "raw":
        entry |= {"shape": list(value.shape), "dtype": WORDS[value.dtype], "id": _identity(back)}
    return parts, entry


def complete(name: str, entry: dict[str, Any], stored: dict[str, Stored]) -> dict[str, Any]:
    """The entry with what the tensors' forms add; raises ValueError or KeyError unless it is one of ours."""
    if entry["as"] == "same":
        return {"as": "same", "of": entry["of"]}
    if entry["as"] == "raw":
        entry |= {"shape": list(stored[name].shape), "dtype": stored[name].dtype, "id": None}
    parts = [stored[part] for part in (name, name + TABLE) if part in stored]
    entry["bytes"] = sum(part.end - part.begin for part in parts)
    sizes = [*entry["shape"], entry["bytes"], entry["crc"]]
    if entry["dtype"] not in DTYPES or not all(type(size) is int and size >= 0 for size in sizes):
        raise Damaged(f"the form of {name}")
    if "kind" in entry and (stored[name].dtype != "U8" or len(stored[name].shape) != 1 or len(parts) != 2):
        raise Damaged(f"the codes of {name}")
    return entry


def check_names(entries: dict[str, dict[str, Any]], stored: set[str]) -> None:
    """Raise Damaged unless entries and stored tensors belong together."""
    held = {name for name, entry in entries.items() if entry["as"] != "same"}
    tables = {name for name in stored if name.endswith(TABLE)}
    if odd := ((stored - tables) ^ held) | ({name.removesuffix(TABLE) for name in tables} - held):
        raise Damaged(min(odd))
    if wrong := [name for name, entry in entries.items() if entry["as"] == "same" and entry["of"] not in held]:
        raise Damaged(wrong[0])


def decode(
    file: Any, name: str, entry: dict[str, Any], layout: Layout | None, known: Bitmaps | None = None
) -> tuple[Tensor, Bitmaps | None]:  # fmt: skip
    """One tensor of the file.

    Args:
        file: safetensors' open file.
        name: of the tensor.
        entry: its entry, from ``complete``.
        layout: how its channels lie, if it is a weight matrix.
        known: what an earlier call gave: the codes are then neither read nor compared with their checksums again.

    Returns:
        The tensor, compared with its checksums, and its codes at two bits a weight, where it has such.

    Raises:
        Damaged: if anything does not fit.
    """
    stored = file.get_tensor(name)
    table = file.get_tensor(name + TABLE) if name + TABLE in file.keys() else None  # noqa: SIM118 - not a mapping
    shape, dtype = tuple(entry["shape"]), DTYPES[entry["dtype"]]
    if known is not None and table is not None:
        return values(Packed(entry["as"], entry["kind"], stored.numpy(), table), known.symbols(), shape, layout), known
    if _crc([part for part in (stored, table) if part is not None]) != entry["crc"]:
        raise Damaged("its bytes do not fit their checksum")
    maps = None
    if "kind" not in entry:
        value = restore(entry["as"], stored, table, dtype)
    elif table is None or table.dtype != dtype:
        raise Damaged("its scales have another form")
    else:
        packed = Packed(entry["as"], entry["kind"], stored.numpy(), table)
        codes = read(packed, shape)
        value, maps = values(packed, codes, shape, layout), Bitmaps.of(packed, codes)
    same = entry["id"] is None or _identity(value) == entry["id"]
    if tuple(value.shape) != shape or value.dtype != dtype or not same:
        raise Damaged("its values do not fit their checksum")
    return value, maps


def _identity(value: Tensor) -> str:
    """A short hash of a tensor's dtype, shape and values."""
    digest = hashlib.blake2b(f"{value.dtype}{tuple(value.shape)}".encode(), digest_size=8)
    digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()


def _crc(parts: list[Tensor]) -> int:
    """CRC-32 of the stored bytes."""
    value = 0
    for part in parts:
        value = zlib.crc32(part.contiguous().reshape(-1).view(torch.uint8).numpy().data if part.numel() else b"", value)
    return value
