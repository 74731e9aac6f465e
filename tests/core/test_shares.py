"""How a share of zeros is divided among layers."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ttq_plugin import bake, ternarize
from ttq_plugin.core.shares import divided


def test_densities_are_as_one_to_the_root_of_the_sizes():
    assert divided([2500, 10_000, 40_000], 0.9) == pytest.approx([0.7, 0.85, 0.925])


def test_all_zeros_are_all_zeros_everywhere():
    assert divided([100, 10_000], 1.0) == [1, 1]


def test_no_layer_has_less_than_half_of_the_share():
    assert divided([100, 10_000], 0.9) == pytest.approx([0.45, (0.9 * 10_100 - 45) / 10_000])


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=9), st.floats(1e-3, 1 - 1e-3))
def test_the_whole_is_what_was_asked(sizes, share):
    found = divided(sizes, share)
    whole = sum(Fraction(zeros) * n for zeros, n in zip(found, sizes, strict=True))
    assert float(whole / sum(sizes)) == pytest.approx(share, rel=1e-9)
    assert all(share / 2 * (1 - 1e-9) <= zeros < 1 for zeros in found)
    ordered = [zeros for _, zeros in sorted(zip(sizes, found, strict=True))]
    assert all(a <= b + 1e-12 for a, b in zip(ordered, ordered[1:], strict=False))


@pytest.mark.parametrize("method", ["pttq", "attq", "ttq"])
@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_a_training_ends_there_if_nothing_changes(method, granularity):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Linear(32, 512))
    options = {} if granularity == "layer" else {"granularity": "out_channel"}
    ternarize(model, ["0", "1"], method=method, zeros=0.8, zeros_steps=10, **options)
    with pytest.warns(UserWarning, match="zeros had risen only to 50.0%"):
        plain = bake(model)
    found = [float((layer.weight == 0).double().mean()) for layer in plain]
    assert found == pytest.approx(divided([1024, 16_384], 0.8), abs=0.03)
