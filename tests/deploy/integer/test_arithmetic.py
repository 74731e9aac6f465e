"""Every integer operation beside exact rationals, which Python's integers and fractions give."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttq_plugin.deploy.integer.arithmetic import Affine, biases, half_away, mantissas, requantise, rounded_shift, table

TOTALS = st.integers(-(1 << 62), 1 << 62)


def nearest(value: Fraction) -> int:
    """Halves go away from 0."""
    size = math.floor(abs(value) + Fraction(1, 2))
    return size if value >= 0 else -size


@given(TOTALS, st.integers(1, 62))
def test_a_shift_rounds_to_the_nearest_integer_halves_away_from_zero(total, shift):
    assert int(rounded_shift(torch.tensor(total), shift)) == nearest(Fraction(total, 1 << shift))


@given(st.integers(-(1 << 20), 1 << 20), st.integers(1, 40))
def test_halves_go_away_from_zero(odd, shift):
    """Exactly in the middle, which random totals hardly ever are."""
    total = (2 * odd + 1) << (shift - 1)
    assert int(rounded_shift(torch.tensor(total), shift)) == (odd + 1 if odd >= 0 else odd)
    assert half_away(odd + 0.5) == (odd + 1 if odd >= 0 else odd)


@given(TOTALS, st.integers(1, 62), st.integers(-128, 127), st.integers(-128, 127), st.integers(-128, 127))
def test_requantisation_saturates(total, shift, zero, one, other):
    low, high = sorted((one, other))
    expected = max(low, min(high, zero + nearest(Fraction(total, 1 << shift))))
    found = requantise(torch.tensor(total), shift, zero, low, high)
    assert found.dtype == torch.int8 and int(found) == expected


@given(st.lists(st.floats(-1e4, 1e4).filter(lambda v: v == 0 or abs(v) > 1e-6), min_size=1, max_size=6))
def test_mantissas_are_the_nearest_integers_over_one_power_of_two(factors):
    found, shift = mantissas(torch.tensor(factors, dtype=torch.float64))
    assert 1 <= shift <= 61 and int(found.abs().max()) < 1 << 30
    for factor, mantissa in zip(factors, found.tolist(), strict=True):
        assert abs(Fraction(factor) - Fraction(mantissa, 1 << shift)) <= Fraction(1, 1 << (shift + 1))
    largest = max(map(abs, factors))
    if largest > 1e-6:  # the largest keeps 29 bits at least, unless the shift is at its end
        assert int(found.abs().max()) >= 1 << 29 or shift == 61


@given(st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=6), st.integers(1, 61))
def test_biases_fit_and_are_near(values, shift):
    found, bits = biases(torch.tensor(values, dtype=torch.float64), shift)
    assert 0 <= bits <= shift and int(found.abs().max()) < 1 << 31
    for value, written in zip(values, found.tolist(), strict=True):
        assert abs(Fraction(value) - Fraction(written, 1 << bits)) <= Fraction(1, 1 << (bits + 1))
    assert bits >= min(4, shift), "no bias is off by more than a thirty-second of a step"


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_a_grid_covers_its_range_and_holds_zero(one, other):
    low, high = sorted((one, other))
    grid = Affine.of_range(low, high)
    assert -128 <= grid.zero <= 127 and grid.scale > 0
    ends = [(q - grid.zero) * grid.scale for q in (-128, 127)]
    assert ends[0] <= min(low, 0) + grid.scale * 0.51 and ends[1] >= max(high, 0) - grid.scale * 0.51
    assert int(grid.quantise(torch.zeros(1, dtype=torch.float64))) == grid.zero


@settings(max_examples=50)
@given(st.floats(1e-3, 10), st.integers(-128, 127), st.floats(-1e4, 1e4))
def test_quantisation_is_the_nearest_step(scale, zero, value):
    found = int(Affine(scale, zero).quantise(torch.tensor([value], dtype=torch.float64)))
    steps = Fraction(value / scale)
    assert found == max(-128, min(127, zero + nearest(steps)))


def test_what_is_no_number_or_infinite_is_quantised_all_the_same():
    values = torch.tensor([float("nan"), float("inf"), -float("inf")])
    assert Affine(0.5, 3).quantise(values).tolist() == [3, 127, -128]


def test_a_table_is_the_function_at_every_argument():
    source, target = Affine(0.05, 10), Affine(1 / 255, -128)
    entries = table(torch.sigmoid, source, target)
    for q in range(-128, 128):
        real = 1 / (1 + math.exp(-(q - 10) * 0.05))
        assert abs(int(entries[q + 128]) - (real * 255 - 128)) <= 0.5 + 1e-9
    assert entries.dtype == torch.int8 and len(entries) == 256
