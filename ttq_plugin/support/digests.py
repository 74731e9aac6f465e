"""The digest inside a safetensors file: SHA-256 of every byte, so that none can change unnoticed.

The digest is 64 characters of the header itself. It is computed with those characters as zeros, over the whole file:
the header's length, the header, and the tensors.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ttq_plugin.errors import InputError

NOTHING = "0" * 64
"""Stands where the digest will be while it is computed."""

LARGEST_HEADER = 1 << 24
"""Bytes; a header has some hundred bytes a tensor."""

KEY = "ttq_digest"
"""The header's metadata entry that is the digest."""

OWN_ENTRY = re.compile(rb'(?<!\\)"ttq_digest":"([0-9a-f]{64})"')
"""The digest as an entry of the header's metadata."""

IN_JSON = re.compile(rb'\\"digest\\":\\"([0-9a-f]{64})\\"')
"""The digest within an entry that is JSON itself, as packed files of format 1 have it."""

_CHUNK = 1 << 20


def seal(data: bytearray) -> None:
    """Replace the zeros that reserve its place by the digest.

    Args:
        data: A safetensors file; changed in place.

    Raises:
        InputError: If the header is too long, or does not have exactly one place for a digest.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    places = list(OWN_ENTRY.finditer(data, 8, end))
    if end - 8 > LARGEST_HEADER or len(places) != 1:
        raise InputError(
            f"the header must have at most {LARGEST_HEADER} bytes and one digest, got {end - 8} bytes and "
            f"{len(places)}; give the file less metadata."
        )
    data[slice(*places[0].span(1))] = hashlib.sha256(data).hexdigest().encode()


def read_header(path: Path, what: str) -> bytes:
    """The JSON text of the header of a safetensors file, which is not checked yet.

    Args:
        path: The file.
        what: What the file should be, for the error's sentence.

    Returns:
        The bytes between the header's length and the tensors.

    Raises:
        InputError: If the file cannot be read, is cut off, or claims a header that is too long.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(LARGEST_HEADER, size - 8):
                raise InputError(
                    f"{path} is damaged or not a {what}: it has {size} bytes and its header claims {length}."
                )
            return file.read(length)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from None


def verify(path: Path, header: bytes, place: re.Pattern[bytes], remedy: str) -> None:
    """Compare the file's bytes with the digest in its header.

    Args:
        path: The file.
        header: What ``read_header`` read from it.
        place: How the digest is written, ``OWN_ENTRY`` or ``IN_JSON``.
        remedy: What to do with a damaged file; ends the error's sentence.

    Raises:
        InputError: If the header does not have exactly one digest, or the digest does not match.
    """
    places = list(place.finditer(header))
    if len(places) != 1:
        raise InputError(f"{path} is damaged: its header must hold one digest, got {len(places)}; {remedy}.")
    first, last = places[0].span(1)
    digest = hashlib.sha256(len(header).to_bytes(8, "little") + header[:first] + NOTHING.encode() + header[last:])
    try:
        with path.open("rb") as file:
            file.seek(8 + len(header))
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from None
    if digest.hexdigest().encode() != places[0][1]:
        raise InputError(f"{path} is damaged: its bytes do not match its digest; {remedy}.")
