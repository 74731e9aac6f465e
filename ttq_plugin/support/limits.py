"""Limits on files: anything larger, longer or deeper is refused before it takes memory or time.

The limits lie far above what the formats need, so that only a damaged or hostile file meets them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ttq_plugin.errors import InputError

LARGEST_SETTINGS = 1 << 20
"""Bytes of a search space or of a table of settings."""

LARGEST_CONFIG = 1 << 24
"""Bytes of a config list or a chain; an entry has some hundred bytes."""

LARGEST_TABLE = 1 << 30
"""Bytes of a table of signals; MIT-BIH's has 0.4 GB."""

LARGEST_ARRAY = 1 << 31
"""Bytes of one array of a data file, as it lies in memory."""

LARGEST_CHUNK = 1 << 26
"""Bytes of a part of an array that is compressed by itself."""

LONGEST_LINE = 1 << 16
"""Bytes of a line in a table."""

DEEPEST = 30
"""Levels of lists and mappings within each other."""

MOST_NODES = 100_000
"""Largest number of values, lists and mappings in a text, with aliases expanded."""

LONGEST_VALUE = 10_000
"""Characters of one value."""

_BLOCK = 1 << 20


def check_size(path: Path, largest: int, form: str = "") -> None:
    """Refuse a file that is larger than its kind ever is.

    Args:
        path: The file; it exists.
        largest: The largest number of bytes.
        form: What is needed, at the end of the sentence.

    Raises:
        InputError: If it is larger, or cannot be read.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}){_end(form)}") from None
    if size > largest:
        raise InputError(f"{path} must have at most {largest} bytes, got {size}{_end(form)}")


def check_bytes(where: str, shape: Iterable[int], itemsize: int, form: str = "", largest: int = LARGEST_ARRAY) -> None:
    """Refuse an array that would not fit, before it is made.

    Args:
        where: What claims to have it, such as a file and an array's name.
        shape: The claimed shape.
        itemsize: Bytes of a value.
        form: What is needed, at the end of the sentence.
        largest: The largest number of bytes.

    Raises:
        InputError: If it needs more.
    """
    claimed, wanted = tuple(shape), itemsize
    for length in claimed:
        wanted *= length
    if wanted > largest or any(length < 0 for length in claimed):
        raise InputError(f"{where} claims to have the shape {claimed}, {wanted} bytes of at most {largest}{_end(form)}")


def check_lines(path: Path, largest: int = LARGEST_TABLE, form: str = "") -> None:
    """Refuse a table that is too large, has a line without end, or has zero bytes, which no text has.

    Args:
        path: The file; it exists.
        largest: The largest number of bytes.
        form: What is needed, at the end of the sentence.

    Raises:
        InputError: If it is one of these, or cannot be read.
    """
    check_size(path, largest, form)
    number, length = 1, 0
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                if b"\0" in block:
                    line = number + block[: block.index(b"\0")].count(b"\n")
                    raise InputError(f"{path} is damaged or not a CSV file (line {line} holds a zero byte){_end(form)}")
                for index, part in enumerate(block.split(b"\n")):
                    if index:
                        number, length = number + 1, 0
                    length += len(part)
                    if length > LONGEST_LINE:
                        raise InputError(f"{path}: line {number} is longer than {LONGEST_LINE} bytes{_end(form)}")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}){_end(form)}") from None


def read_text(path: Path, what: str, largest: int) -> str:
    """A whole text in UTF-8.

    Args:
        path: The file.
        what: What it should be, such as "the config list".
        largest: The largest number of bytes.

    Returns:
        The text, without a byte order mark.

    Raises:
        InputError: If it cannot be read, is too large, or is not such a text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read ({error.strerror or error}).") from None
    if len(data) > largest:
        raise InputError(f"{what} {path} must have at most {largest} bytes, but it has more.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{what} {path} is not UTF-8 text.") from None


def json_value(text: str, what: str, remedy: str) -> Any:
    """The value of a JSON text.

    Args:
        text: The JSON.
        what: What it should be and where it is, such as "the config list c.json".
        remedy: What writes such a text; ends the error's sentence.

    Returns:
        The value.

    Raises:
        InputError: If it is no JSON, has a key twice in one object, or is nested too deep.
    """
    try:
        value = json.loads(text, object_pairs_hook=_without_doubles)
    except RecursionError:
        raise InputError(f"{what} is nested deeper than {DEEPEST} levels; {remedy}.") from None
    except ValueError as error:
        raise InputError(f"{what} is not JSON ({error}); {remedy}.") from None
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [inner for entry in level if isinstance(entry, dict | list) for inner in _entries(entry)]
        if not level:
            return value
    raise InputError(f"{what} is nested deeper than {DEEPEST} levels; {remedy}.")


def _entries(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; raises ValueError if a key comes twice, where JSON would silently take the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)[:40]!r} appears twice")
    return found


def _end(form: str) -> str:
    return f"; {form}." if form else "."
