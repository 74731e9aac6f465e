"""Bits a layer's weights take under each storage scheme: one function an equation.

Throughout: n weights, of them `nonzeros` not zero, `scales` 32-bit scales; results in bits. The schemes are ways to
write trits. A binary layer has no zeros to leave out: it costs one bit a weight under every scheme; a layer on an
integer grid costs its width.
"""

import math
from collections.abc import Sequence

import torch

from ttq_plugin.measures.energy import code_bits
from ttq_plugin.measures.ternary import Codes

SCHEMES = ("coo34", "dense2", "base3", "entropy")
FLOAT_BITS = 32
"""Bits of a value that is not quantised, whatever its dtype, by the papers' convention."""


def coo34(nonzeros: int, scales: int = 2) -> int:
    """The papers' model: 34 a non-zero (2-bit value, 32-bit flat index) + 32 a scale (pTTQ paper, section 4)."""
    return 34 * nonzeros + FLOAT_BITS * scales


def dense2(n: int, scales: int = 2) -> int:
    """A plain two-bit code: 2 n + 32 a scale."""
    return 2 * n + FLOAT_BITS * scales


def base3(n: int, scales: int = 2) -> int:
    """Five trits a byte (3^5 = 243 <= 256): 8 ceil(n / 5) + 32 a scale; 1.6 bits a weight."""
    return 8 * math.ceil(n / 5) + FLOAT_BITS * scales


def entropy(counts: Sequence[int], scales: int = 2) -> float:
    """Shannon's bound for independent trits: n H(p) + 32 a scale, H in bits, p = counts / n (Shannon 1948).

    Args:
        counts: How often each code occurs (-1, 0, +1).
        scales: 32-bit scales stored.

    Returns:
        Bits, a real number; no file of independently coded trits is smaller.
    """
    n = sum(counts)
    return sum(c * math.log2(n / c) for c in counts if c) + FLOAT_BITS * scales


def binary(n: int, scales: int = 1) -> int:
    """DoReFa, one bit: n + 32 a scale."""
    return n + FLOAT_BITS * scales


def integer(n: int, bits: int, scales: int = 1) -> int:
    """An integer grid (int8, int4), one code a weight: bits n + 32 a scale."""
    return bits * n + FLOAT_BITS * scales


def weight_bits(codes: Codes) -> dict[str, float]:
    """Bits of one quantised weight under every scheme, scales included, bias not.

    Args:
        codes: The weight's codes.

    Returns:
        Scheme -> bits.
    """
    n = codes.values.numel()
    if codes.kind == "binary":
        return dict.fromkeys(SCHEMES, binary(n, codes.scales))
    if codes.kind != "ternary":
        return dict.fromkeys(SCHEMES, integer(n, code_bits(codes.kind), codes.scales))
    counts = [int(torch.count_nonzero(codes.values == code)) for code in (-1, 0, 1)]
    return {
        "coo34": coo34(codes.nonzeros, codes.scales),
        "dense2": dense2(n, codes.scales),
        "base3": base3(n, codes.scales),
        "entropy": entropy(counts, codes.scales),
    }
