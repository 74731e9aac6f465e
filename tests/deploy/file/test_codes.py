"""One weight to bytes and back: exact for every value, and as small as promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttq_plugin.core.model.matrices import Layout
from ttq_plugin.deploy.file.codes import SCHEMES, Bitmaps, Packed, pack, read, values
from ttq_plugin.deploy.file.entropy import Damaged
from ttq_plugin.measures.storage import weight_bits
from ttq_plugin.measures.ternary import codes_of

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def unpack(packed, shape, layout=None):
    """As a file is read: the symbols, then their values."""
    return values(packed, read(packed, shape), shape, layout)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*(x.view(BITS[x.element_size()]) for x in (a, b)))


def ternary(shape, zeros, seed=0, dim=None, dtype=torch.float32):
    """Trits with a share of zeros; one pair of scales, or one for each index of ``dim``."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(shape, generator=generator, dtype=torch.float64) >= zeros
    signs = torch.rand(shape, generator=generator, dtype=torch.float64) < 0.5
    ones = [1] * len(shape)
    if dim is not None:
        ones[dim] = shape[dim]
    low, high = torch.rand(2, *ones, generator=generator, dtype=torch.float64) + 0.01
    return torch.where(kept, torch.where(signs, high, -low), 0.0).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [None, 0, 1])
@pytest.mark.parametrize("zeros", [0.0, 0.3, 0.942, 1.0])
def test_ternary_weights_come_back_bit_for_bit(dtype, dim, zeros):
    weight = ternary((24, 20, 3, 3), zeros, dim=dim, dtype=dtype)
    packed = pack(weight, Layout(dim or 0))
    assert packed.kind == ("ternary" if zeros else "binary" if packed.table.shape[1] == 1 else "ternary")
    assert same_bits(unpack(packed, tuple(weight.shape), Layout(dim or 0)), weight)


@given(
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    values=st.lists(st.floats(width=32), min_size=1, max_size=6),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=150, deadline=None)
def test_any_values_come_back_or_are_left_alone(shape, values, seed):
    """NaN, infinities, negative zeros and denormal numbers among them."""
    table = torch.tensor(values, dtype=torch.float32)
    weight = table[torch.randint(len(table), shape, generator=torch.Generator().manual_seed(seed))]
    for dim in (None, 0):
        packed = pack(weight, Layout(dim))
        assert packed is None or same_bits(unpack(packed, tuple(shape), Layout(dim)), weight)


def test_negative_zeros_and_integer_grids_are_kept_in_a_palette():
    weight = ternary((40, 40), 0.5)
    weight[weight == 0] = torch.where(torch.arange(int((weight == 0).sum())) % 2 == 0, 0.0, -0.0)
    grid = torch.randint(-127, 128, (64, 64), generator=torch.Generator().manual_seed(0)) * 0.0123
    for value in (weight, grid):
        packed = pack(value, Layout())
        assert packed.kind == "palette"
        assert same_bits(unpack(packed, tuple(value.shape), Layout()), value)
    assert pack(grid, Layout()).nbytes < 0.35 * grid.nbytes
    assert pack(torch.randn(64, 64), Layout()) is None


@pytest.mark.parametrize("n", [10_001, 26_624, 300_000])
@pytest.mark.parametrize("zeros", [0.2, 1 / 3, 0.5, 0.7, 0.9, 0.942, 0.97, 0.98, 0.987, 0.99])
def test_bytes_lie_within_two_percent_of_shannons_bound(n, zeros):
    weight = ternary((n,), zeros, seed=n).unsqueeze(0)
    bound = weight_bits(codes_of(weight))["entropy"] / 8
    packed = pack(weight, Layout())
    assert bound - 1 <= packed.nbytes <= 1.02 * bound
    if zeros == 0.942:
        assert packed.scheme == "entropy"


@pytest.mark.parametrize("n", [10_001, 73_728])
@pytest.mark.parametrize("zeros", [0.995, 0.999, 0.9999])
def test_where_next_to_nothing_is_left_at_most_two_bytes_are_added(n, zeros):
    """Two percent of less than a hundred bytes are less than two, and the number of codes has to be told."""
    weight = ternary((n,), zeros, seed=n).unsqueeze(0)
    bound = weight_bits(codes_of(weight))["entropy"] / 8
    packed = pack(weight, Layout())
    assert packed.scheme == "pattern" and same_bits(unpack(packed, (1, n), Layout()), weight)
    assert bound - 1 <= packed.nbytes <= max(1.02 * bound, bound + 2)


def test_the_smallest_scheme_is_taken():
    even = torch.arange(100 * 99).remainder(3).sub(1).float().reshape(100, 99)
    assert pack(even, Layout()).nbytes == min(8 + 100 * 99 // 5, pack(even, Layout()).nbytes)
    tiny = ternary((10, 30), 1 / 3)
    sizes = {name: scheme[0](np.asarray(codes_of(tiny).values.reshape(-1) + 1, np.uint8), 3).nbytes
             for name, scheme in SCHEMES.items() if name != "bits"}  # fmt: skip
    assert pack(tiny, Layout()).nbytes == 8 + min(sizes.values())
    signs = torch.where(torch.randn(64, 65, generator=torch.Generator().manual_seed(0)) > 0, 0.1, -0.1)
    assert (pack(signs, Layout()).kind, pack(signs, Layout()).scheme) == ("binary", "bits")
    assert pack(signs, Layout()).nbytes == 4 + 64 * 65 / 8


def test_nonsense_is_refused_and_never_decoded():
    """Any payload of any length for any scheme: Damaged, or n codes."""
    generator = np.random.default_rng(0)
    table = {"ternary": torch.ones(1, 2), "binary": torch.ones(1, 1), "palette": torch.rand(200)}
    refused = 0
    for turn in range(3000):
        payload = generator.integers(0, 256, generator.integers(0, 40), dtype=np.uint8)
        kind = list(table)[turn % 3]
        packed = Packed(list(SCHEMES)[generator.integers(len(SCHEMES))], kind, payload, table[kind])
        try:
            value = unpack(packed, (int(generator.integers(1, 60)), 3), Layout())
        except Damaged:
            refused += 1
        else:
            assert torch.isin(value, torch.cat([table[kind].reshape(-1), torch.tensor([0.0, -1.0])])).all()
    assert refused > 2000


def test_scales_of_another_form_are_refused():
    packed = pack(ternary((30, 40), 0.5), Layout())
    for table in (torch.ones(3, 2), torch.ones(1, 1), torch.ones(2), torch.ones(0, 2)):
        with pytest.raises(Damaged, match="scales of shape"):
            unpack(Packed(packed.scheme, packed.kind, packed.payload, table), (30, 40), Layout())
    with pytest.raises(Damaged, match="no layer"):
        unpack(packed, (30, 40), None)


def test_published_zeros_give_the_promised_gain():
    """1.6 bits a weight and less: CR_G^Q >= 95 % from one third of zeros on, >= 98.5 % at 94 %."""
    for zeros, gain in ((1 / 3, 0.95), (0.5, 0.95), (0.94, 0.985)):
        weight = ternary((128, 64, 3, 3), zeros)
        assert 1 - pack(weight, Layout()).nbytes / weight.nbytes >= gain
    assert math.isclose(1 - 1.6 / 32, 0.95)


@given(st.integers(1, 40), st.integers(2, 3), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_bitmaps_hold_the_symbols(n, kinds, seed):
    codes = np.random.default_rng(seed).integers(0, kinds, n).astype(np.uint8)
    packed = Packed("bits", "binary" if kinds == 2 else "ternary", codes, torch.ones(1, 2))
    maps = Bitmaps.of(packed, codes)
    assert maps is not None and np.array_equal(maps.symbols(), codes) and maps.symbols().dtype == np.uint8
    assert maps.ones.nbytes + maps.twos.nbytes == 2 * -(-n // 8)  # what loading keeps of a layer: two bits a weight
    assert Bitmaps.of(Packed("entropy", "palette", codes, torch.ones(4)), codes) is None
