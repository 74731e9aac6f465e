"""Few trits among many zeros as one whole number: the place of their pattern among all such patterns (Cover 1973).

A range coder pays for how often each trit occurs before it writes the first, which is more than two percent of a layer
that is nearly empty. Here the number of patterns itself says how long a code must be: what is added to it are nine bits
for how many trits are not zero, what fills the last byte, and how many of them are negative.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import partial
from math import comb

import numpy as np
from numpy.typing import NDArray

LIMIT = 512
"""Largest number of non-zero trits; beyond it whole numbers become slow, and the range coder is as small."""


def rank(places: list[int]) -> int:
    """The place of a set of k places among all sets of k, in colexicographic order.

    Args:
        places: Rising, from 0.

    Returns:
        A number below comb(n, k) if all places are below n.
    """
    return sum(comb(place, i) for i, place in enumerate(places, 1))


def places_of(number: int, n: int, k: int) -> list[int]:
    """The set that ``rank`` gave a number to.

    Args:
        number: Below comb(n, k).
        n: The places there are.
        k: The set's size.

    Returns:
        The places, rising.
    """
    places: list[int] = []
    end = n
    for i in range(k, 0, -1):
        end = bisect_right(range(end), number, key=partial(_sets, of=i)) - 1
        number -= comb(end, i)
        places.append(end)
    return places[::-1]


def _sets(places: int, of: int) -> int:
    return comb(places, of)


def encode(trits: NDArray[np.int8]) -> bytes | None:
    """The trits as bytes.

    Args:
        trits: -1, 0 or 1, shape (n,).

    Returns:
        A whole number, lowest byte first, without zero bytes at its end; None if too many trits are not zero.
    """
    k = int(np.count_nonzero(trits))
    if k > LIMIT:
        return None
    places = np.flatnonzero(trits)
    negative = np.flatnonzero(trits[places] < 0)
    signs = rank(negative.tolist()) + comb(k, len(negative)) * rank(places.tolist())
    number = k + (LIMIT + 1) * (len(negative) + (k + 1) * signs)
    return number.to_bytes((number.bit_length() + 7) // 8, "little")


def decode(payload: bytes, n: int) -> NDArray[np.int8] | None:
    """The n trits that ``encode`` was given.

    Args:
        payload: What it returned.
        n: How many trits.

    Returns:
        Shape (n,); None if no n trits are written like this.
    """
    # No pattern of n trits takes more than two bits a trit and the counts; a longer number is not even looked at.
    if (payload and not payload[-1]) or len(payload) > n // 4 + 4:
        return None
    number, k = divmod(int.from_bytes(payload, "little"), LIMIT + 1)
    if k > n:
        return None
    number, negatives = divmod(number, k + 1)
    pattern, signs = divmod(number, comb(k, negatives))
    if pattern >= comb(n, k):
        return None
    trits = np.zeros(n, dtype=np.int8)
    places = np.array(places_of(pattern, n, k), dtype=np.int64)
    trits[places] = 1
    trits[places[places_of(signs, k, negatives)]] = -1
    return trits
