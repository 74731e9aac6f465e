"""Stores ternary codes as bytes that a small processor can decode sequentially."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.deploy.c99.codes import base3, gap_bits

KINDS = ("gaps", "trits", "deltas")
"""Rice codes of the zeros between, base 3, and one byte each; the place in this list is the number in C."""

ESCAPE = 127
"""Number of zeros in a byte after which another byte follows."""


@dataclass(frozen=True)
class Coded:
    """A ternary layer's codes.

    Attributes:
        kind: One of ``KINDS``.
        values: The bytes.
        rice: Bits of a remainder in ``gaps``.
    """

    kind: str
    values: NDArray[np.uint8]
    rice: int = 0


def coded(codes: NDArray[np.int8], fast: bool = False) -> Coded:
    """Write codes in the smallest form.

    Args:
        codes: -1, 0 and 1, flat, in the weight's order.
        fast: Whether to leave out Rice codes, which are read bit by bit.

    Returns:
        The bytes.
    """
    bits, rice = gap_bits(codes)
    forms = [Coded("trits", base3(codes)), Coded("deltas", deltas(codes))]
    if not fast:
        forms.insert(0, Coded("gaps", np.packbits(bits, bitorder="little"), rice))
    return min(forms, key=lambda form: form.values.nbytes)


def deltas(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """One byte for each code that is not zero: the zeros before it and, in the lowest bit, whether it is negative."""
    kept = np.flatnonzero(codes)
    found: list[int] = []
    for gap, code in zip((np.diff(kept, prepend=-1) - 1).tolist(), codes[kept].tolist(), strict=True):
        found += [2 * ESCAPE] * (gap // ESCAPE)
        found.append(2 * (gap % ESCAPE) + (code < 0))
    return np.array(found, dtype=np.uint8)
