"""Opens packed files of every version after verifying every byte against a digest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ttq_plugin.core.model.matrices import Layout
from ttq_plugin.deploy.file import container, gathered, version1
from ttq_plugin.deploy.file.codes import Bitmaps
from ttq_plugin.deploy.file.entries import DTYPES, TABLE, Identity, decode, entry_of
from ttq_plugin.deploy.file.entropy import Damaged, Symbols
from ttq_plugin.errors import InputError
from ttq_plugin.support.digests import read_header


class Reader(Protocol):
    """An open file.

    Attributes:
        about: `task`, `method`, `architecture`, `report` and `more`.
        entries: The entries, as in ``PackedInfo``.
    """

    about: dict[str, Any]
    entries: dict[str, dict[str, Any]]

    def get(self, name: str, layout: Layout | None, known: Bitmaps | None) -> tuple[Tensor, Bitmaps | None]:
        """One tensor; see ``entries.decode``."""

    def check(self) -> None:
        """Raise Damaged unless the tensors have the saved values; called after each was read once."""

    def close(self) -> None:
        """Let go of the file."""


@contextmanager
def opened(path: Path) -> Iterator[Reader]:
    """Open a packed file.

    Args:
        path: The file.

    Yields:
        Its reader.

    Raises:
        InputError: If the file is missing, foreign, of another version, cut off or damaged.
    """
    if not path.is_file():
        raise InputError(f"the packed file {path} does not exist; `save_packed` and `ttq compress --out` write one.")
    header = read_header(path, "packed file")
    parsed, content = _content(path, header)
    try:
        old = isinstance(content, dict)
        reader: Reader = version1.Reader(path, header, parsed, content) if old else _Reader(path, header)
        try:
            _check(reader)
        except BaseException:
            reader.close()
            raise
    except InputError:  # a ValueError too, but with its own message
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: its header lacks or confuses {error}.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from None
    try:
        yield reader
    finally:
        reader.close()


def _content(path: Path, header: bytes) -> tuple[dict[str, Any], Any]:
    """The header and what its entry says: the version, or the JSON of version 1."""
    try:
        parsed = json.loads(header)
        metadata = parsed.get("__metadata__", {})
        content = json.loads(metadata[container.KEY]) if container.KEY in metadata else None
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise InputError(f"{path} is damaged or not a safetensors file (its header is not one).") from None
    if content is None:
        raise InputError(
            f"{path} is not a packed file: its header has no entry {container.KEY!r}; `save_packed` and `ttq compress "
            "--out` write one."
        )
    version = content.get("version") if isinstance(content, dict) else content
    if type(version) is not int or version != (1 if isinstance(content, dict) else container.VERSION):
        raise InputError(
            f"{path} must have packed format 1 or {container.VERSION}, got {str(version)[:20]!r}; it is damaged, or "
            "needs the ttq-plugin that wrote it."
        )
    return parsed, content


def _check(reader: Reader) -> None:
    """Raise Damaged unless the file says about itself what any does."""
    for key, kind in (("architecture", str), ("report", dict), ("more", dict)):
        if not isinstance(reader.about[key], kind):
            raise Damaged(key)
    held = {name for name, entry in reader.entries.items() if entry["as"] != "same"}
    if wrong := [name for name, e in reader.entries.items() if e["as"] == "same" and e["of"] not in held]:
        raise Damaged(wrong[0])


class _Reader:
    """An open file of format 2."""

    def __init__(self, path: Path, header: bytes) -> None:
        self._file = path.open("rb", buffering=0)
        try:
            container.check(path, self._file, header)
            directory, begin, end, self._identity = container.read_directory(self._file)
            self._index(directory, begin, end)
        except BaseException:
            self._file.close()
            raise
        self._seen: Identity | None = Identity()
        self._held: tuple[int, dict[str, Symbols]] = (-1, {})

    def _index(self, directory: dict[str, Any], begin: int, end: int) -> None:
        """Find out where each part lies; nothing is read."""
        self.about = {"task": None, "method": None, "report": {}, "more": {}} | {
            key: directory[key] for key in ("architecture", "task", "method", "report", "more") if key in directory
        }
        found = [entry_of(line) for line in directory["tensors"]]
        self.entries = {name: entry for name, entry, _ in found}
        if len(self.entries) != len(found):
            raise Damaged("a name that occurs twice")
        self._parts = {part.name: part for _, _, parts in found for part in parts}
        self._places: dict[str, int] = {}
        self._blocks = gathered.blocks((name, part.nbytes) for name, part in self._parts.items() if part.small)
        self._block_of = {name: i for i, names in enumerate(self._blocks) for name in names}
        self._coded: list[tuple[int, int]] = []
        lengths = directory.get("gathered", [])
        if len(lengths) != len(self._blocks) or not all(type(length) is int and length >= 0 for length in lengths):
            raise Damaged("the lengths of gathered vectors")
        for length in lengths:
            self._coded.append((begin, length))
            begin += length
        for name, part in self._parts.items():
            if name not in self._block_of:
                self._places[name] = begin
                begin += part.nbytes
        if begin != end:
            raise Damaged(f"{abs(end - begin)} bytes more or less than its parts have")

    def get(self, name: str, layout: Layout | None, known: Bitmaps | None) -> tuple[Tensor, Bitmaps | None]:
        """One tensor; see ``entries.decode``."""
        entry = self.entries[name]
        stored = self._part(name) if known is None else None
        table = self._part(name + TABLE) if name + TABLE in self._parts else None
        value, maps = decode(entry, stored, table, layout, known)
        if self._seen is not None and entry["as"] != "raw":
            self._seen.add(value)
        return value, maps

    def check(self) -> None:
        """Raise Damaged unless the decoded values are those that were saved."""
        if self._seen is not None and self._seen.digest() != self._identity:
            raise Damaged("its values do not match their checksum")
        self._seen = None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _part(self, name: str) -> Tensor:
        part = self._parts[name]
        if not part.nbytes:
            return torch.empty(part.shape, dtype=DTYPES[part.dtype])
        data = self._gathered(name) if name in self._block_of else _read(self._file, self._places[name], part.nbytes)
        return torch.from_numpy(data).view(DTYPES[part.dtype]).reshape(part.shape)

    def _gathered(self, name: str) -> Symbols:
        """A vector from the stream that was read last, if it is there; they are requested in the file's order."""
        block = self._block_of[name]
        if self._held[0] != block:
            names = self._blocks[block]
            forms = [(self._parts[each].width, self._parts[each].nbytes) for each in names]
            found = gathered.decode(_read(self._file, *self._coded[block]).tobytes(), forms)
            self._held = block, dict(zip(names, found, strict=True))
        return self._held[1][name]


def _read(file: IO[bytes], begin: int, length: int) -> Symbols:
    """Bytes of an unbuffered file."""
    data = np.empty(length, np.uint8)
    file.seek(begin)
    rest = data.data
    while rest and (count := file.readinto(rest)):  # type: ignore[attr-defined] # one call gives at most 2 GiB
        rest = rest[count:]
    if rest:
        raise Damaged("the file is cut off")
    return data
