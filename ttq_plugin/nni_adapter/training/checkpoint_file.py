"""A checkpoint's file: what ``torch.save`` writes, with the digest of every byte as the archive's comment."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ttq_plugin.errors import InputError
from ttq_plugin.support.files import REMEDY, write_whole

_HEAD = b"ttq-sha256:"
_LENGTH = len(_HEAD) + 64
_CHUNK = 1 << 20


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a state, whole or not at all: a crash leaves the old file.

    Args:
        state: Tensors, numbers, strings, lists and dicts only.
        path: The file.
    """

    def write(temporary: str) -> None:
        torch.save(state, temporary)
        with open(temporary, "r+b") as file:
            # The last two bytes of a zip archive without a comment are the comment's length.
            file.seek(-2, os.SEEK_END)
            file.write(_LENGTH.to_bytes(2, "little"))
            file.flush()
            file.write(_HEAD + _digest(temporary, file.tell()))

    write_whole(path, write)


def read_checkpoint(path: Path) -> Any:
    """Read what ``write_checkpoint`` wrote; no code in it is ever run.

    Args:
        path: The file.

    Returns:
        The state, whose every byte is the one that was written.

    Raises:
        InputError: If the file is missing, damaged, or not one.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - _LENGTH))
            comment = file.read()
        if comment[: len(_HEAD)] != _HEAD or comment[len(_HEAD) :] != _digest(str(path), size - _LENGTH):
            raise InputError(
                f"the checkpoint {path} is damaged or not a checkpoint: its digest does not match; {REMEDY}."
            )
        return torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise InputError(f"the checkpoint {path} does not exist.") from None
    except InputError:
        raise
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the checkpoint {path} is damaged or not a checkpoint ({reason}); {REMEDY}.") from None


def _digest(path: str, length: int) -> bytes:
    """SHA-256 of a file's first bytes, in hexadecimal."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while length > 0 and (chunk := file.read(min(_CHUNK, length))):
            total.update(chunk)
            length -= len(chunk)
    return total.hexdigest().encode()
