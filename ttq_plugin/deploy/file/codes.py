"""One weight as few bytes: ternary codes with their scales, or a palette of values; exact in both directions.

A payload is written in whichever way is smallest: `base3` (five trits a byte), `bits` (one a weight, where there are
two values), `entropy` (a range coder, constriction's, within a few bytes of Shannon's bound for the weight's own
frequencies) or `pattern` (few trits among many zeros, within two bytes of that bound).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttq_plugin.core.model.matrices import Layout
from ttq_plugin.deploy.file import enumerative
from ttq_plugin.measures.ternary import codes_of

Symbols = NDArray[np.uint8]
"""Codes as indices, shape (n,): a trit t is the symbol t + 1; a palette's symbols are places in its table."""

TRITS = 3
_DIGITS = np.array([[byte // 3**i % 3 for i in range(5)] for byte in range(243)], dtype=np.uint8)
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


OWN_ENTRY = 160
"""Bytes that a packed tensor's own entries in a file's header take, about; below, packing would not pay."""


PIECE = 1 << 16
"""Symbols between two noted states of the range coder."""


class Damaged(ValueError):
    """Bytes that no encoder wrote."""


@dataclass(frozen=True)
class Packed:
    """One weight as it is stored.

    Attributes:
        scheme: a key of ``SCHEMES``.
        kind: `ternary` (table (groups, 2): W_n, W_p), `binary` (table (groups, 1)) or `palette` (table (values,)).
        payload: the codes, uint8.
        table: in the weight's dtype; one row for the layer, or one for each output channel.
    """

    scheme: str
    kind: str
    payload: Symbols
    table: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.payload.nbytes + self.table.nbytes


def pack(weight: Tensor, layout: Layout | None = None) -> Packed | None:
    """Pack a weight of few distinct values.

    Args:
        weight: any shape, on the CPU.
        layout: how its channels lie; None for what is no weight matrix, and only a palette can be.

    Returns:
        What is stored, or None if that is not smaller than the weight itself.
    """
    if not weight.is_floating_point() or weight.element_size() not in _BITS or not weight.numel():
        return None
    weight = weight.detach().contiguous()
    found = (None if layout is None else _ternary(weight, layout)) or _palette(weight)
    return found if found is not None and found.nbytes + OWN_ENTRY < weight.nbytes else None


def unpack(packed: Packed, shape: tuple[int, ...], layout: Layout | None = None) -> Tensor:
    """The weight that ``pack`` was given, bit for bit.

    Args:
        packed: what was stored.
        shape: the weight's.
        layout: as in ``pack``.

    Returns:
        The weight, in the table's dtype.

    Raises:
        Damaged: if the bytes and the shape do not fit together.
    """
    n = int(np.prod(shape))
    symbols = 2 if packed.kind == "binary" else TRITS if packed.kind == "ternary" else len(packed.table)
    if packed.scheme not in SCHEMES or (packed.scheme in OF_TRITS and symbols != TRITS):
        raise Damaged(f"no scheme {packed.scheme!r} for {packed.kind} codes")
    codes = torch.from_numpy(SCHEMES[packed.scheme][1](packed.payload, n, symbols))
    if packed.kind == "palette":
        return packed.table[codes.long()].reshape(shape)
    if layout is None:
        raise Damaged("ternary codes where the model has no layer")
    _check_table(packed, shape, layout)
    dim = layout.channel or 0
    rows = codes.reshape(len(packed.table), -1)
    low, high = packed.table[:, :1], packed.table[:, -1:]
    values = torch.where(rows == symbols - 1, high, torch.where(rows == 0, -low, torch.zeros_like(low)))
    if len(packed.table) in (1, layout.parts):
        return values.reshape(shape)
    moved = (shape[dim], *shape[:dim], *shape[dim + 1 :])
    return values.reshape(moved).movedim(0, dim).contiguous()


def _check_table(packed: Packed, shape: tuple[int, ...], layout: Layout) -> None:
    """Raise Damaged unless the table has a row for the layer, or one for each of its parts or output channels."""
    rows, columns = packed.table.shape if packed.table.dim() == 2 else (0, 0)
    dim = layout.channel or 0
    channels = shape[dim] if len(shape) > dim else 1
    if rows not in {1, layout.parts, channels} or columns != (1 if packed.kind == "binary" else 2):
        raise Damaged(f"scales of shape {tuple(packed.table.shape)} for a weight of shape {shape}")


def _ternary(weight: Tensor, layout: Layout) -> Packed | None:
    """As trits or bits; None if some group has two values of a sign, or if a zero is negative."""
    dim = layout.channel or 0
    codes = codes_of(weight, dim, layout.parts)
    if codes is None or bool((torch.signbit(weight) & (weight == 0)).any()):
        return None
    binary = codes.kind == "binary"
    groups = codes.scales if binary else codes.scales // 2
    by_channel = groups not in (1, layout.parts)
    rows = (weight.movedim(dim, 0) if by_channel else weight).reshape(groups, -1)
    trits = (codes.values.movedim(dim, 0) if by_channel else codes.values).reshape(-1).numpy()
    low, high = (-rows).amax(1).clamp_min(0), rows.amax(1).clamp_min(0)
    table = (torch.maximum(low, high) if binary else torch.stack([low, high], 1)).reshape(groups, -1).contiguous()
    symbols = ((trits + 1) // 2 if binary else trits + 1).astype(np.uint8)
    scheme, payload = _smallest(symbols, 2 if binary else TRITS)
    return Packed(scheme, codes.kind, payload, table)


def _palette(weight: Tensor) -> Packed | None:
    """As places in a table of at most 256 values, told apart by their bits."""
    table, places = torch.unique(weight.view(_BITS[weight.element_size()]), return_inverse=True)
    if len(table) > 256:
        return None
    scheme, payload = _smallest(places.reshape(-1).numpy().astype(np.uint8), len(table))
    return Packed(scheme, "palette", payload, table.view(weight.dtype))


def _smallest(symbols: Symbols, count: int) -> tuple[str, Symbols]:
    """The scheme that takes the fewest bytes, and these."""
    fitting = ["entropy", *(OF_TRITS if count == TRITS else ()), *(["bits"] if count == 2 else ())]
    coded = {scheme: SCHEMES[scheme][0](symbols, count) for scheme in fitting}
    payloads = {scheme: payload for scheme, payload in coded.items() if payload is not None}
    scheme = min(payloads, key=lambda name: payloads[name].nbytes)
    return scheme, payloads[scheme]


def _to_base3(symbols: Symbols, _: int) -> Symbols:
    """Five trits a byte, the first one lowest; the last byte is filled up with zeros."""
    padded = np.zeros(-(-len(symbols) // 5) * 5, dtype=np.uint8)
    padded[: len(symbols)] = symbols
    *lower, found = padded.reshape(-1, 5).T
    for digits in reversed(lower):
        found = 3 * found + digits
    return found


def _from_base3(payload: Symbols, n: int, _: int) -> Symbols:
    if len(payload) != -(-n // 5) or (len(payload) and int(payload.max()) >= 3**5):
        raise Damaged(f"{len(payload)} bytes are not {n} trits")
    return _DIGITS[payload].reshape(-1)[:n]


def _to_bits(symbols: Symbols, _: int) -> Symbols:
    return np.packbits(symbols)


def _from_bits(payload: Symbols, n: int, symbols: int) -> Symbols:
    if symbols > 2 or len(payload) != -(-n // 8):
        raise Damaged(f"{len(payload)} bytes are not {n} bits")
    return np.unpackbits(payload, count=n)


def _to_pattern(symbols: Symbols, _: int) -> Symbols | None:
    coded = enumerative.encode(symbols.astype(np.int8) - 1)
    return None if coded is None else np.frombuffer(coded, dtype=np.uint8)


def _from_pattern(payload: Symbols, n: int, _: int) -> Symbols:
    trits = enumerative.decode(payload.tobytes(), n)
    if trits is None:
        raise Damaged(f"{len(payload)} bytes name no pattern of {n} trits")
    return (trits + 1).astype(np.uint8)


def _to_entropy(symbols: Symbols, count: int) -> Symbols:
    """How often each symbol but the last occurs (LEB128), then the range coder's words, high byte first."""
    counts = np.bincount(symbols, minlength=count)
    head = b"".join(_varint(int(c)) for c in counts[:-1])
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


def _from_entropy(payload: Symbols, n: int, count: int) -> Symbols:
    counts, start = _counts(payload, n, count)
    if counts.max() == n:
        if start != len(payload):
            raise Damaged("bytes follow a weight of one value")
        return np.full(n, counts.argmax(), dtype=np.uint8)
    symbols = _read(payload[start:].tobytes(), n, _model(counts))
    if symbols is None or (np.bincount(symbols, minlength=count) != counts).any():
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


def _varint(value: int) -> bytes:
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


Encode = Callable[[Symbols, int], Symbols | None]
Decode = Callable[[Symbols, int, int], Symbols]
SCHEMES: dict[str, tuple[Encode, Decode]] = {
    "base3": (_to_base3, _from_base3),
    "bits": (_to_bits, _from_bits),
    "entropy": (_to_entropy, _from_entropy),
    "pattern": (_to_pattern, _from_pattern),
}
"""How symbols become bytes (None: not by this scheme), and back."""

OF_TRITS = ("base3", "pattern")
"""Schemes that write trits and nothing else."""
