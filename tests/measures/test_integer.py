"""Integer grids: read off the values, refused where they are none, and a mixed model counted by hand."""

import copy
import json
import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from ttq_plugin.errors import InputError
from ttq_plugin.measures import measure
from ttq_plugin.measures.integer import integer_codes
from ttq_plugin.measures.storage import SCHEMES, integer, weight_bits

from .nets import MnistCNN, Tied, set_codes, ternary_twin

X = torch.randn(2, 1, 20, 20)


def on_grid(weight, bits, step=0.013, seed=0):
    """Write multiples of a step in place, the largest code among them, about a fifth of them zero; return the codes."""
    most = 2 ** (bits - 1) - 1
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-most, most + 1, weight.shape, generator=generator)
    codes[torch.rand(weight.shape, generator=generator) < 0.2] = 0
    codes.view(-1)[:2] = torch.tensor([most, -most])
    with torch.no_grad():
        weight.copy_(codes * torch.tensor(step))
    return codes


def grids(least, most):
    return st.integers(least, most).flatmap(
        lambda bits: st.tuples(
            st.just(bits),
            st.lists(st.integers(1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1), min_size=1, max_size=60),
        )
    )


@given(grids(12, 16), st.floats(1e-4, 10))
@example((15, [385, 15423]), 1.0)
def test_a_fine_grid_is_seen(grid, step):
    """Beyond 11 bits float32 cannot always tell two ratios of codes apart; any of them stays within rounding."""
    bits, codes = grid
    weight = torch.tensor(codes) * torch.tensor(step)
    found = integer_codes(weight, bits)
    assert (found.kind, found.scales) == (f"int{bits}", 1)
    peak = max(range(len(codes)), key=lambda i: abs(codes[i]))
    if codes[peak]:
        again = found.values.double() * (weight[peak].double() / found.values[peak])
        assert torch.allclose(again, weight.double(), rtol=5e-7, atol=0)


@given(grids(2, 11), st.floats(1e-4, 10))
def test_codes_come_back_up_to_a_common_factor(grid, step):
    bits, codes = grid
    weight = torch.tensor(codes) * torch.tensor(step)
    found = integer_codes(weight, bits)
    assert (found.kind, found.scales) == (f"int{bits}", 1)
    assert found.values.dtype is (torch.int8 if bits <= 8 else torch.int16)
    factor = math.gcd(*codes) or 1
    assert [c * factor for c in found.values.tolist()] == codes
    assert found.nonzeros == sum(c != 0 for c in codes)


@pytest.mark.parametrize("bits", range(2, 17))
def test_one_value_off_the_grid_is_seen(bits):
    weight = torch.empty(4, 500)
    codes = on_grid(weight, bits)
    assert torch.equal(integer_codes(weight, bits).values.long(), codes)
    for shift in (0.3, 0.02):
        moved = weight.clone()
        moved[2, 7] += 0.013 * shift
        assert integer_codes(moved, bits) is None


def test_a_grid_of_more_bits_is_seen():
    weight = torch.empty(4, 500)
    on_grid(weight, 8)
    assert integer_codes(weight, 7) is None
    assert integer_codes(weight, 9).kind == "int9"
    assert integer_codes(torch.randn(4, 500), 16) is None
    # 255 values, evenly spaced, yet no zero among them: an affine grid needs a zero point beside its scale.
    assert integer_codes((torch.arange(255) - 126.5) * 0.01, 8) is None


@pytest.mark.parametrize("bad", [[1.0, float("nan")], [float("inf"), 0.0], []])
def test_no_grid(bad):
    assert integer_codes(torch.tensor(bad), 8) is None


def test_no_weight_but_zeros():
    codes = integer_codes(torch.zeros(3, 4), 4)
    assert not codes.values.any() and weight_bits(codes)["base3"] == 4 * 12 + 32


@pytest.mark.parametrize("dim", [0, 1])
def test_one_step_a_channel(dim):
    layer = nn.ConvTranspose1d(4, 6, 5) if dim else nn.Conv1d(4, 6, 5)
    codes = on_grid(layer.weight, 4)
    channels = layer.weight.shape[dim]
    with torch.no_grad():
        layer.weight.mul_(torch.linspace(0.5, 1.7, channels).view(-1, 1) if dim else torch.rand(channels, 1, 1) + 0.5)
    found = integer_codes(layer.weight, 4, dim)
    assert (found.scales, found.smallest_group) == (channels, codes.numel() // channels)
    assert torch.equal(found.values.sign().long(), codes.sign()) and found.values.shape == codes.shape
    assert set(weight_bits(found).values()) == {4 * codes.numel() + 32 * channels}
    assert integer_codes(layer.weight, 4, 1 - dim) is None


@pytest.mark.parametrize(
    ("dtype", "bits"), [(torch.float64, 16), (torch.float32, 16), (torch.float16, 8), (torch.bfloat16, 4)]
)
def test_dtypes(dtype, bits):
    weight = torch.empty(3, 40)
    codes = on_grid(weight, bits)
    found = integer_codes(weight.to(dtype), bits)
    assert torch.equal(found.values.long() * (codes[0, 0] // found.values[0, 0]), codes)


def test_a_dtype_that_proves_nothing():
    with pytest.raises(InputError, match="bfloat16 weight is too coarse to be measured at 8 bits: convert both models"):
        integer_codes(torch.ones(4, dtype=torch.bfloat16), 8)


def test_bits_by_hand():
    assert integer(10, 8) == 112
    assert integer(10, 4, 3) == 136


@pytest.fixture
def mixed():
    """Ternary conv1 with 100 zeros, int8 conv2, int4 fc1, float fc2."""
    model = MnistCNN()
    twin = copy.deepcopy(model)
    set_codes(twin.conv1.weight, 100)
    on_grid(twin.conv2.weight, 8)
    on_grid(twin.fc1.weight, 4, step=0.07, seed=1)
    return model, twin


def test_a_mixed_model_by_hand(mixed):
    model, twin = mixed
    report = measure(model, twin, X, layers=["conv1"], widths={"conv2": 8, "fc1": 4})
    assert report.kinds == {"conv1": "ternary", "conv2": "int8", "fc1": "int4"}
    zeros2, zeros1 = (int((w == 0).sum()) for w in (twin.conv2.weight, twin.fc1.weight))
    assert zeros2 > 500 and zeros1 > 500
    rest = (8 * 5_000 + 32) + (4 * 4_000 + 32) + 32 * (500 + 90)
    assert report.bits("coo34") == 34 * 150 + 64 + rest
    assert report.bits("dense2") == 2 * 250 + 64 + rest
    assert report.bits("base3") == 8 * 50 + 64 + rest
    for scheme in SCHEMES:
        assert report.cr_gain(scheme) == 1 - report.bits(scheme) / (32 * 9_840)
    assert report.cr_gain_total == report.cr_gain("coo34")
    assert report.cr_gain_quantized == 1 - (34 * 150 + 64 + 40_032 + 16_032) / (32 * 9_250)
    assert report.srqw == 100 / 250
    words = (-(-2 * 150 // 32) + 2) + (-(-8 * (5_000 - zeros2) // 32) + 1) + (-(-4 * (4_000 - zeros1) // 32) + 1)
    assert sum(row.transfers for row in report.layers) == words + 500 + 90
    by_name = {row.name: row for row in report.layers}
    assert by_name["conv2"].mult_adds == (5_000 - zeros2 + 20) * 16
    assert by_name["fc1"].mult_adds == 4_000 - zeros1 + 50
    assert [by_name[n].scales for n in ("conv1", "conv2", "fc1", "fc2")] == [2, 1, 1, 0]


def test_layers_may_or_may_not_name_the_integer_ones_and_may_be_left_out(mixed):
    model, twin = mixed
    widths = {"conv2": 8, "fc1": 4}
    one = measure(model, twin, X, layers=["conv1", "conv2", "fc1"], widths=widths)
    assert one == measure(model, twin, X, layers=["conv1"], widths=widths) == measure(model, twin, X, widths=widths)


def test_integer_layers_alone(mixed):
    model, twin = mixed
    report = measure(model, twin, X, layers=[], widths={"conv2": 8})
    assert report.srqw is None and report.kinds == {"conv2": "int8"}
    assert "zeros among ternary weights none (integer)" in str(report)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["cr_gain_base3"] == report.cr_gain("coo34")


def test_the_table_tells_kinds_and_real_bits(mixed):
    text = str(measure(*mixed, X, widths={"conv2": 8, "fc1": 4}))
    assert [line.split()[1] for line in text.splitlines()[1:4]] == ["ternary", "int8", "int4"]
    assert "zeros among ternary weights 40.00 %" in text and "base3 9.43 (76.0" in text


def test_widths_of_nothing_change_nothing():
    model = MnistCNN()
    twin = ternary_twin(model, ["conv1", "conv2"], 3_000)
    assert measure(model, twin, X) == measure(model, twin, X, widths={})


def test_a_shared_weight_is_stored_once():
    model = Tied()
    twin = copy.deepcopy(model)
    on_grid(twin.a.weight, 4)
    report = measure(model, twin, torch.randn(3, 4), widths={"b": 4})
    assert report.bits("coo34") == 4 * 16 + 32


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"fc2": 8}, r"Layer 'fc2' must hold multiples of one step, at most 255 values, .* int8, got 500 distinct"),
        (
            {"conv2": 4},
            r"Layer 'conv2' .* at most 15 values, .* int4, got 2\d\d distinct values off such a grid: export",
        ),
        ({"nowhere": 8}, "`widths` must name layers of the model, got 'nowhere'; it has conv1, conv2, fc1, fc2"),
        ({"": 8}, "Layer 'fc2' must hold multiples of one step"),  # all layers of the model
        ({"conv2": 1}, "`widths` must give each layer a whole number of bits from 2 to 16, got 1 for 'conv2'"),
        ({"conv2": 32}, "from 2 to 16, got 32"),
        ({"conv2": 8.0}, "from 2 to 16, got 8.0"),
        ({"conv2": "int8"}, "from 2 to 16, got 'int8'"),
    ],
)
def test_wrong_widths(mixed, widths, message):
    with pytest.raises(InputError, match=message):
        measure(*mixed, X, widths=widths)
