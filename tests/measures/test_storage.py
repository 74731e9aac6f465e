import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ttq_plugin.measures.storage import SCHEMES, base3, binary, coo34, dense2, entropy, weight_bits
from ttq_plugin.measures.ternary import codes_of

counts = st.tuples(*[st.integers(0, 400)] * 3).filter(lambda c: sum(c) > 0)


def weight_of(negatives, zeros, positives):
    return torch.tensor([-0.5] * negatives + [0.0] * zeros + [0.25] * positives)


def test_by_hand():
    assert coo34(3) == 3 * 34 + 64
    assert dense2(10) == 20 + 64
    assert base3(11) == 3 * 8 + 64
    assert binary(10) == 10 + 32
    assert entropy((1, 2, 1)) == 4 * 1.5 + 64
    assert entropy((0, 7, 0)) == 64


@given(counts)
def test_bounds(c):
    n = sum(c)
    assert 64 <= entropy(c) <= n * math.log2(3) + 64 + 1e-6
    assert entropy(c) <= base3(n) + 1e-6
    assert base3(n) <= 1.6 * n + 8 + 64
    if n >= 20:
        assert base3(n) <= dense2(n)


@given(counts)
def test_one_more_zero_never_costs_more(c):
    negatives, zeros, positives = c
    if negatives == 0:
        return
    assert coo34(negatives - 1 + positives) == coo34(negatives + positives) - 34
    if zeros >= max(negatives, positives):
        # Entropy is Schur-concave: moving mass from a rarer code to the commonest makes it fall.
        assert entropy((negatives - 1, zeros + 1, positives)) <= entropy(c) + 1e-6


@given(
    counts.filter(lambda c: c[1] > 0), st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
)
def test_schemes_of_a_weight_in_every_dtype(c, dtype):
    codes = codes_of(weight_of(*c).to(dtype))
    assert codes.kind == "ternary" and codes.scales == 2
    bits = weight_bits(codes)
    assert tuple(bits) == SCHEMES
    assert bits["coo34"] == 34 * (c[0] + c[2]) + 64
    assert bits["entropy"] == pytest.approx(entropy(c))


def test_binary_costs_one_bit_under_every_scheme():
    codes = codes_of(torch.tensor([0.5, -0.5, 0.5]))
    assert set(weight_bits(codes).values()) == {3 + 32}


def test_scales_of_each_channel():
    weight = torch.tensor([[0.5, -0.5, 0.0], [0.25, 0.0, -1.0]])
    codes = codes_of(weight)
    assert codes.scales == 4
    assert weight_bits(codes)["coo34"] == 4 * 34 + 4 * 32
    assert codes_of(weight.T) is None
    assert codes_of(weight.T, 1).values.tolist() == weight.sign().T.tolist()
