"""One tensor of a packed file: its stored parts, its line in the directory, and their checks."""

from __future__ import annotations

import hashlib
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ttq_plugin.core.model.matrices import Layout, matrices
from ttq_plugin.deploy.file import gathered
from ttq_plugin.deploy.file.codes import SCHEMES, Bitmaps, Packed, pack, read, values
from ttq_plugin.deploy.file.entropy import Damaged
from ttq_plugin.deploy.file.rest import restore, shrink

TABLE = "#table"
"""Ends the name of the part that holds a packed weight's scales."""

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
"""Types of torch by their names in safetensors."""

WORDS = {dtype: word for word, dtype in DTYPES.items()}

COLUMNS = {"ternary": (2,), "binary": (1,), "palette": ()}
"""A kind of codes, and what follows the number of rows in the shape of its table."""


class Part(NamedTuple):
    """A tensor that is stored.

    Attributes:
        name: The tensor's in the state dict, or this and ``TABLE``.
        dtype: Safetensors' word.
        shape: Shape of what is stored.
        own: Whether these are the tensor's own values, not codes or scales.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    own: bool = False

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return DTYPES[self.dtype].itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all."""
        return math.prod(self.shape) * self.width

    @property
    def small(self) -> bool:
        """Whether it lies in a stream with others; codes and scales never do, so that their size is known."""
        return self.own and len(self.shape) <= 1 and self.nbytes <= gathered.LARGEST


class Identity:
    """A short hash of tensors: their dtypes, shapes and values."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)

    def add(self, value: Tensor) -> None:
        """Let one more tensor count."""
        self._hash.update(f"{value.dtype}{tuple(value.shape)}".encode())
        self._hash.update(data_of(value))

    def digest(self) -> bytes:
        """Eight bytes."""
        return self._hash.digest()


class Stored(NamedTuple):
    """What a file keeps of a tensor.

    Attributes:
        line: The line, in the directory.
        parts: The tensors that are stored.
    """

    line: list[Any]
    parts: dict[str, Tensor]


def make(name: str, value: Tensor, layout: Layout | None, rest: str, identity: Identity) -> Stored:
    """Make the stored form of one tensor; see ``save_packed`` for ``rest``.

    Args:
        name: The name in the state dict.
        value: The value, contiguous and on the CPU.
        layout: How its channels lie, if it is a weight matrix.
        rest: One of ``REST``.
        identity: What loading makes of it counts there, if it is not simply what is stored.

    Returns:
        Its line and its parts.
    """
    line: list[Any] = [name, WORDS[value.dtype], list(value.shape)]
    packed = pack(value, layout)
    if packed is not None:
        line += [packed.kind, len(packed.table), packed.scheme, packed.payload.nbytes]
        identity.add(value)
        return Stored(line, {name + TABLE: packed.table, name: torch.from_numpy(packed.payload.copy())})
    entry, small, scales = shrink(name, value, rest)
    if entry["as"] == "raw":
        return Stored(line, {name: small})
    parts = ({} if scales is None else {name + TABLE: scales}) | {name: small}
    identity.add(restore(entry["as"], small, scales, value.dtype))
    return Stored([*line, entry["as"]], parts)


def entry_of(line: list[Any]) -> tuple[str, dict[str, Any], list[Part]]:
    """A tensor's name, its entry and its parts, in the order in which these lie in the file.

    Args:
        line: The line of the directory.

    Returns:
        The entry is as in ``PackedInfo``.

    Raises:
        Damaged: If ``make`` cannot have written the line.
        ValueError: If ``make`` cannot have written the line.
        TypeError: If ``make`` cannot have written the line.
        KeyError: If ``make`` cannot have written the line.
    """  # noqa: DOC502 - raised by the unpacking of what has another form
    name, dtype, shape, *coding = line
    if not isinstance(name, str) or TABLE in name:
        raise Damaged("the name of a tensor")
    if dtype == "same":
        return name, {"as": "same", "of": shape}, []
    entry: dict[str, Any] = {"as": "raw", "shape": list(shape), "dtype": dtype}
    parts = [Part(name, dtype, tuple(shape), own=True)]
    if len(coding) > 1:
        kind, rows, scheme, payload = coding
        entry |= {"as": scheme, "kind": kind}
        parts = [Part(name + TABLE, dtype, (rows, *COLUMNS[kind])), Part(name, "U8", (payload,))]
    elif coding:
        entry["as"] = coding[0]
        parts = [Part(name, {"float16": "F16", "int8": "I8"}[coding[0]], tuple(shape), own=True)]
        parts = [Part(name + TABLE, "F32", tuple(shape[:1])), *parts] if coding[0] == "int8" else parts
    sizes = [*shape, *(size for part in parts for size in part.shape)]
    known = dtype in DTYPES and ("kind" not in entry or entry["as"] in SCHEMES)
    if not known or not all(type(size) is int and size >= 0 for size in sizes):
        raise Damaged(f"the form of {name}")
    entry["bytes"] = sum(part.nbytes for part in parts)
    return name, entry, parts


def decode(
    entry: dict[str, Any], stored: Tensor | None, table: Tensor | None, layout: Layout | None, known: Bitmaps | None
) -> tuple[Tensor, Bitmaps | None]:
    """One tensor of a file.

    Args:
        entry: What the file says of it.
        stored: The part that has its name; not needed if its codes are known.
        table: Its scales, if it has such.
        layout: How its channels lie, if it is a weight matrix.
        known: What an earlier call gave: the codes are then not decoded again.

    Returns:
        The tensor, and its codes at two bits a weight, where it has such.

    Raises:
        Damaged: If these do not fit together.
    """
    shape, dtype = tuple(entry["shape"]), DTYPES[entry["dtype"]]
    maps = known
    if "kind" not in entry:
        if stored is None:
            raise Damaged("nothing is stored of it")
        value = restore(entry["as"], stored, table, dtype)
    elif table is None or table.dtype != dtype:
        raise Damaged("its scales have another form")
    else:
        payload = torch.empty(0, dtype=torch.uint8) if stored is None else stored
        packed = Packed(entry["as"], entry["kind"], payload.numpy(), table)
        codes = read(packed, shape) if known is None else known.symbols()
        value = values(packed, codes, shape, layout)
        maps = Bitmaps.of(packed, codes) if known is None else known
    if tuple(value.shape) != shape or value.dtype != dtype:
        raise Damaged("its values have another form")
    return value, maps


def layouts(model: nn.Module) -> dict[str, Layout]:
    """Name of a weight matrix in the state dict -> how its channels lie."""
    # Dimension 1 of a grouped transposed convolution holds the channels of one group, which files may tell apart.
    return {
        path: Layout(1 if matrix.layout.channel is None else matrix.layout.channel, matrix.layout.parts)
        for matrix in matrices(model).values()
        for path in matrix.paths
    }


def data_of(value: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU."""
    if not value.numel():
        return memoryview(b"")
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().data
