"""Stores one weight in few bytes, as ternary codes with scales or as a palette of values, without any loss.

A payload is written in whichever way is smallest: `base3` (five trits a byte), `bits` (one a weight, where there are
two values), `entropy` (a range coder, constriction's, within a few bytes of Shannon's bound for the weight's own
frequencies) or `pattern` (few trits among many zeros, within two bytes of that bound).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ttq_plugin.core.model.matrices import Layout
from ttq_plugin.deploy.file import entropy, enumerative
from ttq_plugin.deploy.file.entropy import Damaged, Symbols
from ttq_plugin.measures.ternary import codes_of

TRITS = 3
_DIGITS = np.array([[byte // 3**i % 3 for i in range(5)] for byte in range(243)], dtype=np.uint8)
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


OWN_ENTRY = 16
"""Most bytes that packing adds to a tensor's line in the directory; packing must save more than this."""


@dataclass(frozen=True)
class Packed:
    """One weight as it is stored.

    Attributes:
        scheme: A key of ``SCHEMES``.
        kind: `ternary` (table (groups, 2): W_n, W_p), `binary` (table (groups, 1)) or `palette` (table (values,)).
        payload: The codes, uint8.
        table: The table, in the weight's dtype; one row for the layer, or one for each output channel.
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
        weight: Any shape, on the CPU.
        layout: How its channels lie; None for what is no weight matrix, and only a palette can be.

    Returns:
        What is stored, or None if that is not smaller than the weight itself.
    """
    if not weight.is_floating_point() or weight.element_size() not in _BITS or not weight.numel():
        return None
    weight = weight.detach().contiguous()
    found = (None if layout is None else _ternary(weight, layout)) or _palette(weight)
    return found if found is not None and found.nbytes + OWN_ENTRY < weight.nbytes else None


def read(packed: Packed, shape: tuple[int, ...]) -> Symbols:
    """The symbols of a stored weight, without their values.

    Args:
        packed: What was stored.
        shape: The weight's shape.

    Returns:
        One symbol for each weight, shape (n,).

    Raises:
        Damaged: If the bytes are not as many symbols.
    """
    symbols = _symbols(packed)
    if packed.scheme not in SCHEMES or (packed.scheme in OF_TRITS and symbols != TRITS):
        raise Damaged(f"no scheme {packed.scheme!r} for {packed.kind} codes")
    return SCHEMES[packed.scheme][1](packed.payload, int(np.prod(shape)), symbols)


def values(packed: Packed, codes: Symbols, shape: tuple[int, ...], layout: Layout | None) -> Tensor:
    """The weight whose symbols were read.

    Args:
        packed: What was stored; its table is used.
        codes: What ``read`` returned.
        shape: The weight's shape.
        layout: The weight's layout, as in ``pack``.

    Returns:
        The weight, in the table's dtype.

    Raises:
        Damaged: If the table and the shape do not fit together.
    """
    places = torch.from_numpy(codes).int()
    if packed.kind == "palette":
        return packed.table.index_select(0, places).reshape(shape)
    if layout is None:
        raise Damaged("ternary codes where the model has no layer")
    _check_table(packed, shape, layout)
    low, high = packed.table[:, :1], packed.table[:, -1:]
    levels = torch.cat([-low, high] if packed.kind == "binary" else [-low, torch.zeros_like(low), high], 1)
    rows = places.reshape(len(levels), -1)
    rows += levels.shape[1] * torch.arange(len(levels), dtype=torch.int32)[:, None]
    found = levels.reshape(-1).index_select(0, places)
    if len(levels) in (1, layout.parts):
        return found.reshape(shape)
    dim = layout.channel or 0
    moved = (shape[dim], *shape[:dim], *shape[dim + 1 :])
    return found.reshape(moved).movedim(0, dim).contiguous()


@dataclass(frozen=True)
class Bitmaps:
    """Symbols of at most three kinds at two bits each, which can be packed and unpacked very fast.

    Attributes:
        ones: Bitmap of the symbols that are 1, eight to a byte.
        twos: Bitmap of the symbols that are 2, eight to a byte.
        count: How many symbols there are.
    """

    ones: Symbols
    twos: Symbols
    count: int

    @classmethod
    def of(cls, packed: Packed, codes: Symbols) -> Bitmaps | None:
        """Make bitmaps of the symbols that ``read`` found, or None if there are more than three kinds."""
        if _symbols(packed) > TRITS:
            return None
        return cls(np.packbits(codes == 1), np.packbits(codes == 2), len(codes))

    def symbols(self) -> Symbols:
        """The symbols again, shape (n,)."""
        ones, twos = (np.unpackbits(each, count=self.count) for each in (self.ones, self.twos))
        return ones + 2 * twos


def _symbols(packed: Packed) -> int:
    """How many kinds of symbols there are."""
    return 2 if packed.kind == "binary" else TRITS if packed.kind == "ternary" else len(packed.table)


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
    """Encode as indices into a table of at most 256 values, which are distinguished by their bits."""
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


Encode = Callable[[Symbols, int], Symbols | None]
Decode = Callable[[Symbols, int, int], Symbols]
SCHEMES: dict[str, tuple[Encode, Decode]] = {
    "base3": (_to_base3, _from_base3),
    "bits": (_to_bits, _from_bits),
    "entropy": (entropy.encode, entropy.decode),
    "pattern": (_to_pattern, _from_pattern),
}
"""For each scheme, functions from symbols to bytes (None if the scheme does not apply) and back."""

OF_TRITS = ("base3", "pattern")
"""Schemes that write trits and nothing else."""
