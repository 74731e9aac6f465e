"""Sparse trits as one whole number: every pattern has its own, and no other bytes are read."""

from __future__ import annotations

from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttq_plugin.deploy.file.enumerative import LIMIT, decode, encode, places_of, rank


@pytest.mark.parametrize("n", range(1, 8))
def test_every_set_has_its_own_number(n):
    for k in range(n + 1):
        numbers = {rank(list(places)): list(places) for places in combinations(range(n), k)}
        assert sorted(numbers) == list(range(comb(n, k)))
        assert all(places_of(number, n, k) == places for number, places in numbers.items())


@pytest.mark.parametrize("n", range(1, 8))
def test_every_pattern_comes_back_and_no_two_share_their_bytes(n):
    patterns = [np.array(trits, dtype=np.int8) for trits in product((-1, 0, 1), repeat=n)]
    coded = [encode(trits) for trits in patterns]
    assert len(set(coded)) == 3**n
    assert all((decode(payload, n) == trits).all() for payload, trits in zip(coded, patterns, strict=True))


@given(payload=st.binary(max_size=12), n=st.integers(1, 60))
@settings(max_examples=500, deadline=None)
def test_bytes_are_refused_or_are_what_their_pattern_is_written_as(payload, n):
    trits = decode(payload, n)
    assert trits is None or encode(trits) == payload


def test_as_many_as_the_limit_are_written_and_one_more_is_left_to_another_code():
    trits = np.zeros(5000, dtype=np.int8)
    places = np.random.default_rng(0).choice(5000, LIMIT + 1, replace=False)
    trits[places[:-1]] = np.where(np.arange(LIMIT) % 3, 1, -1)
    assert (decode(encode(trits), 5000) == trits).all()
    trits[places[-1]] = 1
    assert encode(trits) is None


def test_a_number_longer_than_any_pattern_is_not_looked_at():
    assert decode(b"\xff" * 100_000, 100) is None
    assert decode(b"\x00", 100) is None and decode(b"", 100).tolist() == [0] * 100
