"""Writes files completely or not at all, with a digest that detects damage when they are read back."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_plugin.errors import InputError
from ttq_plugin.support.processes import born, lives, machine

if TYPE_CHECKING:
    pass

LARGEST_JSON = 1 << 26
"""Bytes of a JSON file that is read; a table of traces has some hundred bytes a layer."""

REMEDY = "delete it, then make it again or take another copy"
"""What to do with a damaged file; the errors say it."""

_TEMPORARY = re.compile(r"\.ttq-([0-9a-f]{8})-(\d+)-(\w*)-[0-9a-f]{8}\.tmp")


def write_whole(path: Path, write: Callable[[str], object]) -> None:
    """Let ``write`` fill a temporary file next to ``path``, then rename it; a crash leaves the old file.

    The temporary file is hidden and bears its process's number; one whose process was killed is removed by the next
    write into the same folder. When this returns, the file is on the disk, not only in the system's memory.

    Args:
        path: The file to be; its folder is made if needed.
        write: Called with the temporary file's name.

    Raises:
        InputError: If the place cannot be written.
    """
    path = place_of(path)
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_litter(path.parent)
        temporary = path.parent / _temporary_name()
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # the umask decides who may read it
        try:
            write(str(temporary))
            _to_disk(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _to_disk(path.parent)
    except BaseException as error:
        for folder in missing:
            with contextlib.suppress(OSError):  # not made yet, or in use by others
                folder.rmdir()
        if not isinstance(error, OSError):
            raise
        raise InputError(f"{path} cannot be written ({error.strerror or error}); choose another place.") from None


def write_together(texts: Mapping[Path, str]) -> None:
    """Write text files that belong together: none is put in its place before the disk holds all of them.

    Args:
        texts: what is to be in each file.

    Raises:
        InputError: if one cannot be written; all older files of these names are then what they were.
    """

    def put(rest: list[tuple[Path, str]]) -> None:
        if rest:
            (path, text), *others = rest

            def fill(temporary: str) -> None:
                Path(temporary).write_bytes(text.encode())
                put(others)

            write_whole(path, fill)

    put(list(texts.items()))


def place_of(path: Path, *, folder: bool = False) -> Path:
    """Resolve a path that is to be written: a link stays, and its target is written.

    Args:
        path: What a user named.
        folder: Whether it may be a folder.

    Returns:
        The path without links.

    Raises:
        InputError: If it is a device, a folder or unreachable; a device would be replaced by a file.
    """
    try:
        real = Path(os.path.realpath(path))
        try:
            kind = real.lstat().st_mode
        except FileNotFoundError:
            _check_lengths(real)
            return real
    except (OSError, ValueError) as error:  # a path with a null byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be written ({reason}); choose another place.") from None
    if not stat.S_ISREG(kind) and not (folder and stat.S_ISDIR(kind)):
        what = "a folder" if stat.S_ISDIR(kind) else "no file"
        raise InputError(f"{path} cannot be written (it is {what}); choose another place.")
    return real


def folder_on_the_way(path: Path) -> Path:
    """The path itself if it is a folder, else the nearest folder above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _check_lengths(path: Path) -> None:
    """Raise the system's own OSError for a name that is too long in a folder that is not there yet."""
    there = folder_on_the_way(path)
    most = os.pathconf(there, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    if any(len(os.fsencode(part)) > most for part in path.relative_to(there).parts):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def write_bytes(path: Path, content: bytes | bytearray) -> None:
    """Write a file, whole or not at all."""
    write_whole(path, lambda temporary: Path(temporary).write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON with a digest of its text, whole or not at all.

    Args:
        path: The file to be; ``read_json`` reads it.
        value: What ``json.dumps`` takes.
    """
    text = json.dumps(value, separators=(",", ":")).encode()
    write_bytes(path, _json_head(text) + text + b"}\n")


def digest_of(value: Any) -> str:
    """A digest of a value that JSON takes, for files that others read too; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_json(path: Path) -> Any:
    """Read what ``write_json`` wrote.

    Args:
        path: The file.

    Returns:
        The value.

    Raises:
        InputError: If the file is missing, too large, damaged, or has no digest.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_JSON + 1)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from None
    head = len(_json_head(b""))
    text = data[head:-2]
    if len(data) > LARGEST_JSON or data != _json_head(text) + text + b"}\n":
        raise InputError(f"{path} is damaged, or was not written by this version: its digest does not match; {REMEDY}.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # of a text that was given a digest on purpose
        raise InputError(f"{path} is not JSON, although its digest matches; {REMEDY}.") from None


def _json_head(text: bytes) -> bytes:
    """What stands before the value's text in a JSON file with a digest."""
    return b'{"digest":"%s","value":' % hashlib.sha256(text).hexdigest().encode()


def _temporary_name() -> str:
    pid = os.getpid()
    return f".ttq-{_here()}-{pid}-{born(pid)}-{secrets.token_hex(4)}.tmp"


def _here() -> str:
    """An identifier of this machine, because processes of other machines cannot be checked."""
    return hashlib.sha256(machine().encode()).hexdigest()[:8]


def _remove_litter(folder: Path) -> None:
    """Remove temporary files whose process was killed while it wrote them."""
    with os.scandir(folder) as entries:
        found = [match for entry in entries if (match := _TEMPORARY.fullmatch(entry.name))]
    for match in found:
        if match[1] == _here() and not lives(int(match[2]), match[3]):
            with contextlib.suppress(OSError):
                os.unlink(folder / match[0])


def _to_disk(path: Path) -> None:
    """Wait until the file or folder is on the disk; without it a power cut may leave an empty file under the name."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(handle)  # some file systems cannot do it for folders
    finally:
        os.close(handle)
