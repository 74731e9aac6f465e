"""Damage to a file: every kind that disks, cables and editors do, drawn at random."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ttq_plugin import InputError


def mutated(data: bytes, generator: np.random.Generator, *, header: bool = True) -> bytes:
    """The file with a bit or byte changed, bytes lost, doubled, inserted or swapped, its end cut, or its header edited.

    Args:
        data: The file.
        generator: Of random numbers.
        header: Whether it is a safetensors file, half of whose damage is done to the header.

    Returns:
        The damaged file; it may be the same by chance.
    """
    head = 8 + struct.unpack("<Q", data[:8])[0] if header else 0
    end = head if header and generator.random() < 0.5 else len(data)
    a, b = sorted(int(i) for i in generator.integers(0, end, 2))
    length = int(generator.integers(1, 9))
    changed = bytearray(data)
    match generator.integers(9 if header else 8):
        case 0 | 1:
            changed[a] ^= 1 << int(generator.integers(8))
        case 2:
            changed[a] ^= int(generator.integers(1, 256))
        case 3:
            del changed[a : a + length]
        case 4:
            changed[a:a] = changed[b : b + length]
        case 5:
            changed[a : a + length], changed[b : b + length] = changed[b : b + length], changed[a : a + length]
        case 6:
            changed = changed[:a]
        case 7:
            changed[a:a] = generator.bytes(length)
        case 8:
            edited = json.loads(data[8:head])
            part = edited["__metadata__"] if generator.random() < 0.5 else edited
            key = str(generator.choice(sorted(part)))
            part[f"{key}x"] = part.pop(key)
            text = json.dumps(edited, separators=(",", ":")).encode()
            changed = struct.pack("<Q", len(text)) + text + data[head:]
    return bytes(changed)


def silent(path: Path, read: Callable[[], object], count: int, *, header: bool = True) -> Iterator[bytes]:
    """Damage a file again and again, and read it; in the end it is whole again.

    Args:
        path: The file.
        read: Reads it; must raise InputError with one line that names the file.
        count: How often.
        header: Whether it is a safetensors file.

    Yields:
        Each damaged file that was read without an error.
    """
    data, generator = path.read_bytes(), np.random.default_rng(19)
    for _ in range(count):
        changed = mutated(data, generator, header=header)
        if changed == data:
            continue
        # In place: a rename for each would be most of the time.
        with path.open("r+b", buffering=0) as file:
            file.write(changed)
            file.truncate()
        try:
            read()
            yield changed
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
    path.write_bytes(data)
