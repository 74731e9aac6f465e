"""Small vectors, such as biases and statistics of norms, in one stream: numbers of a size lie together, byte by byte.

Signs and exponents of such numbers are much alike, and their own block of deflate says so; the bytes of fractions are
stored as they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ttq_plugin.deploy.file.container import inflate
from ttq_plugin.deploy.file.entropy import Damaged, Symbols

LARGEST = 1 << 14
"""Bytes of a vector that is gathered with others; larger ones lie alone."""

BLOCK = 1 << 20
"""Bytes of vectors in one stream: as many are held at once while a file is read."""


def blocks(sizes: Iterable[tuple[str, int]]) -> list[list[str]]:
    """Which vectors lie in a stream together.

    Args:
        sizes: Name and bytes of each, in the file's order.

    Returns:
        The names, stream by stream.
    """
    found: list[list[str]] = []
    held = 0
    for name, size in sizes:
        if not found or held + size > BLOCK:
            found.append([])
            held = 0
        found[-1].append(name)
        held += size
    return found


def encode(vectors: Sequence[tuple[int, bytes]]) -> bytes:
    """Write one stream.

    Args:
        vectors: Bytes of a number, and the numbers' bytes, of each.

    Returns:
        A raw stream of deflate.
    """
    rows: list[tuple[bytes, bool]] = []
    for width in sorted({size for size, _ in vectors}):
        data = np.frombuffer(b"".join(data for size, data in vectors if size == width), np.uint8)
        rows += [(row.tobytes(), place == width - 1) for place, row in enumerate(data.reshape(-1, width).T)]
    # Where a block ends, another code begins; which ends pay depends on the numbers.
    ways = ([False] * len(rows), [top for _, top in rows], [True] * len(rows))
    return min((_deflated([row for row, _ in rows], apart) for apart in ways), key=len)


def _deflated(rows: Sequence[bytes], apart: Sequence[bool]) -> bytes:
    """The rows as one stream, with a block's end before each row that is to lie apart and behind it."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    out = b""
    for i, row in enumerate(rows):
        if i and (apart[i] or apart[i - 1]):
            out += coder.flush(zlib.Z_BLOCK)
        out += coder.compress(row)
    return out + coder.flush()


def decode(coded: bytes, forms: Sequence[tuple[int, int]]) -> list[Symbols]:
    """Read what ``encode`` wrote.

    Args:
        coded: The stream.
        forms: Bytes of a number, and of all its numbers, of each vector.

    Returns:
        The vectors' bytes, uint8.

    Raises:
        Damaged: If the stream holds other vectors.
    """
    whole = np.frombuffer(inflate(coded, sum(length for _, length in forms)), np.uint8)
    if len(whole) != sum(length for _, length in forms):
        raise Damaged("the gathered vectors")
    streams: dict[int, Iterator[Symbols]] = {}
    at = 0
    for width in sorted({size for size, _ in forms}):
        lengths = [length for size, length in forms if size == width]
        data = whole[at : at + sum(lengths)].reshape(width, -1).T.flatten()
        streams[width] = iter(np.split(data, np.cumsum(lengths)[:-1]))
        at += len(data)
    return [next(streams[size]) for size, _ in forms]
