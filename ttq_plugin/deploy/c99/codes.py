"""Stores a weight as constant bytes for a small processor, in the smallest form that a few lines of C can decode.

``gaps``: between two weights that are not zero, the number of zeros as a Rice code (Golomb 1966, Rice 1979: quotient by
2^k in ones, a zero, then k bits), then a sign bit; bits fill a byte from the lowest, and one last gap ends at the
layer's end. ``trits``: five weights a byte, base 3, 1 for +, 2 for -. ``bytes``: int8 multiples of one step.
``floats``: as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ttq_plugin.measures.integer import integer_codes
from ttq_plugin.measures.ternary import codes_of

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Stored:
    """One weight.

    Attributes:
        kind: ``gaps``, ``trits``, ``bytes`` or ``floats``.
        values: uint8, int8 or float32, flat, in the weight's row-major order.
        positive: Factor of the codes above zero, of all codes in ``bytes`` and ``floats``; one, or one a channel.
        negative: The negative of those below zero; None in ``bytes`` and ``floats``.
        rice: k of ``gaps``.
    """

    kind: str
    values: NDArray[np.generic]
    positive: Floats
    negative: Floats | None = None
    rice: int = 0

    @property
    def nbytes(self) -> int:
        """Number of bytes of codes and scales."""
        return self.values.nbytes + self.positive.nbytes + (0 if self.negative is None else self.negative.nbytes)


def stored(weight: Tensor, *, dense: bool = False, random: bool = False) -> Stored:
    """The weight (out channels, ...) in its smallest form, exactly.

    Args:
        weight: float32.
        dense: Always as floats, to compare with.
        random: Whether any row must be readable without those before it.

    Returns:
        The bytes and how to read them. A weight on an int8 grid may be off by the rounding of its grid in float32.
    """
    values = weight.detach().cpu().contiguous()
    forms = [Stored("floats", values.numpy().reshape(-1), np.ones(1, np.float32))]
    if not dense and (found := codes_of(values)) is not None:
        codes = found.values.numpy().reshape(-1)
        rows = values.numpy().reshape(1 if found.smallest_group == codes.size else len(values), -1)
        scales = np.maximum(rows.max(1), 0), np.maximum((-rows).max(1), 0)
        forms.append(Stored("trits", base3(codes), *scales))
        if not random:
            bits, rice = gap_bits(codes)
            forms.append(Stored("gaps", np.packbits(bits, bitorder="little"), *scales, rice))
    elif not dense and (grid := integer_codes(values, 8)) is not None:
        codes = grid.values.numpy().reshape(-1)
        rows = values.numpy().reshape(grid.scales, -1)
        steps = np.abs(rows).max(1) / np.maximum(np.abs(codes.reshape(grid.scales, -1)).max(1), 1)
        forms.append(Stored("bytes", codes, steps.astype(np.float32)))
    return min(forms, key=lambda form: form.nbytes)


def base3(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Five codes a byte, the first in the lowest digit."""
    digits = np.where(codes < 0, 2, codes).astype(np.uint8)
    fives = np.pad(digits, (0, -digits.size % 5)).reshape(-1, 5)
    packed: NDArray[np.uint8] = (fives * np.array([1, 3, 9, 27, 81], np.uint8)).sum(1, dtype=np.uint8)
    return packed


def gap_bits(codes: NDArray[np.int8]) -> tuple[NDArray[np.uint8], int]:
    """Bits (0 or 1, one each) of the gaps and signs under the best k, and k."""
    kept = np.flatnonzero(codes)
    ends = np.append(kept, codes.size)
    gaps = np.diff(ends, prepend=-1) - 1
    rice = min(range(16), key=lambda k: int((gaps >> k).sum()) + k * gaps.size)
    lengths = (gaps >> rice) + 1 + rice + 1
    starts = np.cumsum(lengths) - lengths
    bits = np.ones(int(lengths.sum()), np.uint8)
    low = starts + (gaps >> rice)  # the unary part is ones up to here
    bits[low] = 0
    for place in range(rice):
        bits[low + 1 + place] = (gaps >> place) & 1
    bits[low + 1 + rice] = np.append(codes[kept] < 0, False)
    return bits, rice
