"""Every layer type, per layer and per output channel: trained, exported, measured."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.nni_adapter.nets import make_evaluator
from ttq_plugin import measure
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import QUANTIZERS, PTTQQuantizer, TTQQuantizer

LAYERS = {
    "Conv1d": (lambda: nn.Conv1d(3, 6, 3), (4, 3, 9)),
    "Conv2d": (lambda: nn.Conv2d(3, 6, 3), (4, 3, 6, 6)),
    "Conv3d": (lambda: nn.Conv3d(3, 6, 3), (4, 3, 4, 4, 4)),
    "grouped": (lambda: nn.Conv2d(4, 8, 3, groups=2), (4, 4, 6, 6)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(3, 6, 3), (4, 3, 9)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 6, 3), (4, 3, 5, 5)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(3, 6, 3), (4, 3, 4, 4, 4)),
    "Linear": (lambda: nn.Linear(12, 7), (4, 12)),
}


class Wrapped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def one_layer(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    return Wrapped(make()), torch.randn(shape)


def quantize(quantizer_class, model, x, granularity):
    def step(_batch, net):
        return F.mse_loss(net(x), torch.ones_like(net(x)))

    evaluator = make_evaluator(model, lr=0.05)
    evaluator._training_step = evaluator._ori_training_step = step
    setting = {"op_names": ["layer"], "target_names": ["weight"], "granularity": granularity}
    return quantizer_class(model, [setting], evaluator, on_empty="clip")


@pytest.mark.parametrize("granularity", ["default", "out_channel"])
@pytest.mark.parametrize("method", QUANTIZERS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(name, method, granularity):
    model, x = one_layer(name)
    full = copy.deepcopy(model)
    quantizer = quantize(QUANTIZERS[method], model, x, granularity)
    before = quantizer.states()["layer"].scales.clone()
    quantizer.compress(None, 2)
    state = quantizer.states()["layer"]
    assert torch.equal(before, state.scales) != state.method.learn_scales
    latent = quantizer.bound_model.layer._nni_wrapper.weight
    scales = state.method.scales(latent, state.params)
    exported = quantizer.export_model()
    weight = exported.layer.weight
    with torch.no_grad():
        assert torch.equal(exported.eval()(x), quantizer.bound_model.eval()(x))
    transposed = "Transpose" in name
    channels = weight.shape[1 if transposed else 0] if granularity == "out_channel" else 1
    assert scales[0].numel() == channels
    rows = weight.transpose(0, 1) if transposed and channels > 1 else weight
    for index, row in enumerate(rows if channels > 1 else [weight]):
        positive, negative = scales.reshape(2, -1)[:, index].tolist()
        assert set(row.unique().tolist()) <= {-negative, 0.0, positive}
    if method == "dorefa":
        return
    report = measure(full, exported, x[:1], layers=["layer"])
    assert report.srqw == pytest.approx((weight == 0).double().mean().item())
    bits = 34 * int((weight != 0).sum()) + 64 * channels
    assert report.cr_gain_quantized == pytest.approx(1 - bits / (32 * weight.numel()))


def test_calibration_of_channels_goes_round():
    model, x = one_layer("Conv2d")
    source = quantize(PTTQQuantizer, model, x, "out_channel")
    _, calibration = source.compress(None, 1)
    assert calibration["layer"]["weight"]["scale"].shape == (6, 1, 1, 1)
    model, x = one_layer("Conv2d")
    target = quantize(PTTQQuantizer, model, x, "out_channel")
    target.update_calibration_config(calibration)
    assert torch.equal(target.states()["layer"].scales, source.states()["layer"].scales)


@pytest.mark.parametrize(
    "granularity, message",
    [
        ("in_channel", "granularity must be default or out_channel for ternary weights, got 'in_channel'"),
        ([4, 4], r"granularity must be default or out_channel .* got list of int"),
    ],
)
def test_other_granularities(granularity, message):
    model, x = one_layer("Conv2d")
    with pytest.raises(InputError, match=message):
        quantize(TTQQuantizer, model, x, granularity)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: setattr(m.b, "weight", m.a.weight), "a: its weight is shared by a.weight and b.weight; untie them"),
        (lambda m: m.a.weight.requires_grad_(False), r"a: the weight is frozen \(requires_grad is False\)"),
        (lambda m: m.half(), "a: a float16 weight loses small updates"),
        (lambda m: m.bfloat16(), "a: a bfloat16 weight loses small updates"),
        (lambda m: setattr(m, "a", nn.Linear(1, 1)), "a: needs at least two weights"),
        (lambda m: nn.init.constant_(m.a.weight, 0.5), "a: all weights are equal"),
        (lambda m: nn.init.constant_(m.a.weight, float("inf")), "a: weights must be finite"),
        (
            lambda m: setattr(m.a, "weight", nn.Parameter(torch.zeros(6, 6, dtype=torch.complex64))),
            "a: weights must be real",
        ),
        (lambda m: setattr(m.a, "weight", nn.Parameter(torch.zeros(0, 6))), "a: needs at least two weights .* has 0"),
    ],
)
def test_layers_that_cannot_be_ternary(change, message):
    torch.manual_seed(0)
    model = Odd()
    change(model)
    weight = model.a.weight
    with pytest.raises(InputError, match=message):
        TTQQuantizer(model, [{"op_names": ["a"]}])
    assert model.a.weight is weight and not hasattr(model.a, "_nni_wrapper")
