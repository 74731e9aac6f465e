"""Files that are read back: written whole or not at all, with a digest that tells damage."""

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
from ttq_plugin.support.births import born, lives, machine
from ttq_plugin.support.digests import KEY, NOTHING, OWN_ENTRY, read_header, seal, verify
from ttq_plugin.support.names import check_module_names

if TYPE_CHECKING:
    from torch import Tensor, nn

LARGEST_JSON = 1 << 26
"""Bytes of a JSON file that is read; a table of traces has some hundred bytes a layer."""

REMEDY = "delete it, then make it again or take another copy"
"""What to do with a damaged file; the errors say it."""

_TEMPORARY = re.compile(r"\.ttq-([0-9a-f]{8})-(\d+)-(\w*)-[0-9a-f]{8}\.tmp")


def write_whole(path: Path, write: Callable[[str], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in its place; a crash leaves the old one.

    The temporary file is hidden and bears its process's number; one whose process was killed is removed by the next
    write into the same folder. When this returns, the file is on the disk, not only in the system's memory.

    Args:
        path: The file to be; its folder is made if needed.
        write: Called with the temporary file's name.

    Raises:
        InputError: If the place cannot be written.
    """
    path = place_of(path)
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
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); choose another place.") from None


def place_of(path: Path, *, folder: bool = False) -> Path:
    """Find out where a path leads that is to be written: a link stays, and what it points to is written.

    Args:
        path: What a user named.
        folder: Whether it may be a folder.

    Returns:
        The path without links.

    Raises:
        InputError: If it is a device, a folder or nothing that can be reached; a device would be replaced by a file.
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
        raise InputError(f"{path} is damaged, or was not written by this version: its digest does not fit; {REMEDY}.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # of a text that was given a digest on purpose
        raise InputError(f"{path} is not JSON, though its digest fits; {REMEDY}.") from None


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the model's state dict as safetensors with a digest, whole or not at all; always the same bytes.

    Args:
        model: Any module; tensors go to the CPU in the file, shared ones under each of their names.
        path: A ``.safetensors`` file; its folder is made if needed.
        metadata: Strings to keep in the file's header.

    Raises:
        InputError: If the state dict holds what safetensors cannot keep, or the place cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save

    entries = {KEY: NOTHING, **(metadata or {})}
    if entries[KEY] != NOTHING:
        raise InputError(f"metadata must not have an entry {KEY!r}, which the file's own digest needs; rename it.")
    check_module_names(model)
    state = model.state_dict()
    if others := [name for name, value in state.items() if not hasattr(value, "untyped_storage")]:
        raise InputError(f"a safetensors file holds tensors only, got {type(state[others[0]]).__name__} {others[0]!r}.")
    try:
        data = bytearray(save({name: _plain(value) for name, value in state.items()}))
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} cannot be written: safetensors cannot keep these weights ({error}).") from None
    # safetensors writes several entries in an order of its own, another one in each process.
    end = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(entries.items())), **json.loads(data[8:end])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    data[:end] = len(text).to_bytes(8, "little") + text
    seal(data)
    write_bytes(path, data)


def load_weights(model: nn.Module, path: Path, *, unsigned: bool = False) -> dict[str, str]:
    """Fill the model from a file that ``save_weights`` wrote, once every byte of it has been checked.

    Args:
        model: A module of the architecture that was saved; filled in place.
        path: The ``.safetensors`` file.
        unsigned: Whether a file without a digest is taken too, such as one that another program wrote. Damage to its
            numbers cannot be noticed.

    Returns:
        The file's metadata.

    Raises:
        InputError: If the file is missing, damaged, without a digest that it needs, or of another architecture; the
            model is then unchanged.
    """
    from safetensors import SafetensorError, safe_open

    check_module_names(model)
    header = _weights_header(path)
    metadata = _metadata(path, header)
    own = model.state_dict()
    if path.stat().st_size > 2 * len(header) + 8 + sum(value.numel() * 8 for value in own.values()):
        raise InputError(_another_architecture(path, model))  # before a file without end is read to its end
    if metadata.pop(KEY, None) is not None or OWN_ENTRY.search(header):
        verify(path, header, OWN_ENTRY, REMEDY)
    elif not unsigned:
        raise InputError(
            f"{path} has no digest, so that damage to it could not be noticed; it is damaged, or neither this version "
            f"nor `save_weights` wrote it: {REMEDY}."
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or not a safetensors file ({error}).") from None
    if _shapes(tensors) != _shapes(own):
        raise InputError(_another_architecture(path, model))
    _check_types(path, tensors, own, unsigned)
    model.load_state_dict(tensors)
    return metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The strings in a safetensors file's header; its tensors are not read, and nothing is checked yet.

    Args:
        path: The file.

    Returns:
        The metadata without the digest, empty if there is none.

    Raises:
        InputError: If the file is missing or damaged.
    """
    metadata = _metadata(path, _weights_header(path))
    metadata.pop(KEY, None)
    return metadata


def _plain(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().clone()


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _another_architecture(path: Path, model: nn.Module) -> str:
    return f"{path} holds weights of another architecture than {type(model).__name__}."


def _check_types(path: Path, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], unsigned: bool) -> None:
    """Raises InputError where torch would convert numbers silently; a user's floats may have another precision."""
    for name, value in tensors.items():
        floats = unsigned and value.is_floating_point() and own[name].is_floating_point()
        if value.dtype != own[name].dtype and not floats:
            raise InputError(
                f"{path} must hold {name!r} as {own[name].dtype}, as the model does, got {value.dtype}; convert it."
            )


def _weights_header(path: Path) -> bytes:
    if not path.is_file():
        what = "are no file" if path.exists() else "do not exist"
        raise InputError(f"the weights {path} {what}.")
    return read_header(path, "safetensors file")


def _metadata(path: Path, header: bytes) -> dict[str, str]:
    try:
        metadata = json.loads(header).get("__metadata__", {})
        if isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values()):
            return metadata
    except (ValueError, AttributeError, RecursionError):
        pass
    raise InputError(f"{path} is damaged or not a safetensors file (its header is not one); {REMEDY}.")


def _json_head(text: bytes) -> bytes:
    """What stands before the value's text in a JSON file with a digest."""
    return b'{"digest":"%s","value":' % hashlib.sha256(text).hexdigest().encode()


def _temporary_name() -> str:
    pid = os.getpid()
    return f".ttq-{_here()}-{pid}-{born(pid)}-{secrets.token_hex(4)}.tmp"


def _here() -> str:
    """This machine, in eight characters: processes of others are not ours to judge."""
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
