"""Symbols by a range coder (constriction's), within a few bytes of Shannon's bound for their own frequencies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.uint8]
"""Codes as indices, shape (n,): a trit t is the symbol t + 1; a palette's symbols are places in its table."""

PIECE = 1 << 16
"""Symbols between two noted states of the range coder."""


class Damaged(ValueError):
    """Bytes that no encoder wrote."""


def encode(symbols: Symbols, count: int) -> Symbols:
    """Write symbols.

    Args:
        symbols: Shape (n,).
        count: How many kinds there are.

    Returns:
        How often each symbol but the last occurs (LEB128), then the range coder's words, high byte first.
    """
    counts = np.bincount(symbols, minlength=count)
    head = b"".join(varint(int(c)) for c in counts[:-1])
    if counts.max() == len(symbols):
        return np.frombuffer(head, dtype=np.uint8)
    model, encoder = _model(counts), _constriction().queue.RangeEncoder()
    states = [encoder.pos()]  # before each piece, so that its end can be read without all that comes before
    for start in range(0, len(symbols), PIECE):
        encoder.encode(symbols[start : start + PIECE].astype(np.int32), model)
        states.append(encoder.pos())
    coded = encoder.get_compressed().astype(">u4").tobytes()
    return np.frombuffer(head + _shortened(coded, symbols, model, states), dtype=np.uint8)


def _shortened(coded: bytes, symbols: Symbols, model: Any, states: list[Any]) -> bytes:
    """Without those of the last bytes that the decoder, which fills a word up with zeros, can do without."""
    # The decoder looks two words ahead: what is read from words before the last four stays the same.
    first = max((place for place, (word, _) in enumerate(states) if word < len(coded) // 4 - 4), default=0)
    tail = min(len(coded), 8)
    last = int.from_bytes(coded[-tail:], "big")
    for cut in range(min(tail - 1, 6), 0, -1):
        rounded = (last >> 8 * cut) + 1
        if rounded < 1 << 8 * (tail - cut):
            trial = coded[:-tail] + rounded.to_bytes(tail - cut, "big")
            rest = symbols[first * PIECE :]
            found = _read(trial, len(rest), model, states[first])
            if found is not None and (found == rest).all():
                return trial
    return coded


def _read(coded: bytes, n: int, model: Any, state: Any = None) -> Symbols | None:
    """The n symbols, from the encoder's state before them, or None if the range coder cannot read as many."""
    words = np.frombuffer(coded + bytes(-len(coded) % 4), dtype=">u4").astype(np.uint32)
    decoder = _constriction().queue.RangeDecoder(words)
    try:
        if state is not None:
            decoder.seek(*state)
        symbols: Symbols = decoder.decode(model, n).astype(np.uint8)
    except (AssertionError, ValueError):
        return None
    return symbols


def decode(payload: Symbols, n: int, count: int) -> Symbols:
    """Read what ``encode`` wrote.

    Args:
        payload: The bytes.
        n: How many symbols there are.
        count: How many kinds.

    Returns:
        The symbols, shape (n,).

    Raises:
        Damaged: If these bytes are not n such symbols.
    """
    counts, start = _counts(payload, n, count)
    if counts.max() == n:
        if start != len(payload):
            raise Damaged("bytes follow a weight of one value")
        return np.full(n, counts.argmax(), dtype=np.uint8)
    symbols = _read(payload[start:].tobytes(), n, _model(counts))
    if symbols is None or any(np.count_nonzero(symbols == kind) != found for kind, found in enumerate(counts)):
        raise Damaged("the range coder's symbols do not occur as often as the head says")
    return symbols


def _counts(payload: Symbols, n: int, count: int) -> tuple[NDArray[np.int64], int]:
    """How often each symbol occurs, and where the coder's words begin."""
    counts = np.zeros(count, dtype=np.int64)
    place = 0
    for symbol in range(count - 1):
        shift = 0
        while True:
            if place >= len(payload) or shift > 42:
                raise Damaged("the head of an entropy-coded weight is cut off")
            byte = int(payload[place])
            counts[symbol] += (byte & 127) << shift
            place, shift = place + 1, shift + 7
            if byte < 128:
                break
    counts[-1] = n - counts[:-1].sum()
    if counts[-1] < 0:
        raise Damaged(f"the head counts {counts[:-1].sum()} symbols of {n}")
    return counts, place


def varint(value: int) -> bytes:
    """LEB128: seven bits a byte, low ones first, the top bit set where more follow."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _constriction() -> Any:
    """The stream coders; imported where they are needed, so that all else works without."""
    from constriction import stream

    return stream


def _model(counts: NDArray[np.int64]) -> Any:
    return _constriction().model.Categorical((counts / counts.sum()).astype(np.float32), perfect=False)
