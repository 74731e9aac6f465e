"""BatchNorm folded by NNI (``fuse_names``): ternary is the folded weight, in the forward and in the export."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from nni.compression.quantization import QATQuantizer
from torch import nn

from tests.nni_adapter.nets import batches, make_evaluator
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PTTQQuantizer, TTQQuantizer

X = batches(1)[0][0]


class BatchNormNet(nn.Module):
    def __init__(self, bias=True, **norm):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, bias=bias)
        self.bn = nn.BatchNorm2d(6, **norm)
        self.relu = nn.ReLU()
        self.fc1 = nn.Linear(6, 8, bias=bias)
        self.bn1 = nn.BatchNorm1d(8, **norm)
        self.fc2 = nn.Linear(8, 5)

    def forward(self, x):
        x = self.relu(self.bn(self.conv(x))).mean(dim=(2, 3))
        return self.fc2(F.relu(self.bn1(self.fc1(x))))


FOLD = [{"op_names": ["conv", "fc1"], "target_names": ["weight"], "quant_dtype": "int2",
         "fuse_names": [("conv", "bn"), ("fc1", "bn1")]}]  # fmt: skip


def net(**options):
    torch.manual_seed(0)
    model = BatchNormNet(**options)
    with torch.no_grad():
        for norm in (model.bn, model.bn1):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.3, 2)
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.3)
    return model


def outputs(model):
    with torch.no_grad():
        return model.eval()(X)


def folded_weight(w, norm):
    """The textbook's, in float64."""
    gamma = norm.weight.double() if norm.affine else 1.0
    factor = gamma / torch.sqrt(norm.running_var.double() + norm.eps)
    return w.double() * factor.reshape(-1, *[1] * (w.dim() - 1))


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"affine": False}], ids=["bias", "no-bias", "not-affine"])
@pytest.mark.parametrize("quantizer_class", [PTTQQuantizer, TTQQuantizer])
def test_the_export_computes_what_the_wrapped_model_does(quantizer_class, options):
    model = net(**options)
    plain = copy.deepcopy(model)
    quantizer = quantizer_class(model, FOLD, make_evaluator(model))
    # The initial scales are those of the folded weight: E|w| over the kept ones of a sign.
    w, state = folded_weight(plain.conv.weight.detach(), plain.bn), quantizer.states()["conv"]
    assert state.scales[0].item() == pytest.approx(w[quantizer.codes()["conv"] > 0].mean().item(), rel=1e-5)
    before = {name: s.scales.detach().clone() for name, s in quantizer.states().items()}
    statistics = model.bn.running_mean.clone()
    for _ in range(2):
        quantizer.compress(None, 1)
        assert not torch.equal(statistics, model.bn.running_mean), "the statistics go on in training"
        exported = quantizer.export_model()
        assert torch.equal(outputs(exported), outputs(model))
        model.train()
    for name, s in quantizer.states().items():
        assert not torch.equal(before[name], s.scales)
        positive, negative = s.scales.tolist()
        weight = getattr(exported, name).weight
        assert set(weight.unique().tolist()) == {-negative, 0.0, positive}
        assert torch.equal(weight.sign(), quantizer.codes()[name].float())
    assert isinstance(exported.bn, nn.Identity) and isinstance(exported.bn1, nn.Identity)
    assert isinstance(model.bn, nn.BatchNorm2d)


def test_the_exported_model_is_plain():
    model = net()
    quantizer = PTTQQuantizer(model, FOLD, make_evaluator(model))
    quantizer.compress(None, 1)
    exported = quantizer.export_model()
    assert not any("nni" in name for name, _ in exported.named_modules())
    assert [n for n, _ in exported.conv.named_parameters()] == ["weight", "bias"]
    buffer = io.BytesIO()
    torch.save(copy.deepcopy(exported), buffer)
    buffer.seek(0)
    assert torch.equal(outputs(torch.load(buffer, weights_only=False)), outputs(exported))


def test_the_bias_and_the_norm_train():
    model = net()
    quantizer = PTTQQuantizer(model, FOLD, make_evaluator(model))
    before = [model.bn.weight.detach().clone(), model.bn.bias.detach().clone()]
    bias = model.conv._nni_wrapper.bias
    start = bias.detach().clone()
    quantizer.compress(None, 1)
    assert not torch.equal(model.bn.weight, before[0]) and not torch.equal(model.bn.bias, before[1])
    assert model.conv._nni_wrapper.bias is bias and not torch.equal(bias, start)
    quantizer.unwrap_model()
    assert torch.equal(model.conv.bias, bias)


@pytest.mark.parametrize("qat_first", [True, False])
def test_with_int8_activations(qat_first):
    model = net()
    int8 = {"op_names": ["conv"], "target_names": ["_input_", "_output_"], "quant_dtype": "int8"}
    if qat_first:
        int8["fuse_names"] = [("conv", "bn", "relu")]
        ternary = [{"op_names": ["conv"]}]
        qat = QATQuantizer(model, [int8], make_evaluator(model))
        quantizer = last = PTTQQuantizer.from_compressor(qat, ternary)
    else:
        quantizer = PTTQQuantizer(model, FOLD, make_evaluator(model))
        last = QATQuantizer.from_compressor(quantizer, [int8])
    last.compress(None, 2)
    exported = quantizer.export_model()
    assert isinstance(exported.bn, nn.Identity) and isinstance(exported.relu, nn.ReLU)
    assert len(exported.conv.weight.unique()) == 3
    # Int8 rounding of inputs and outputs is all that differs: without it both are equal to the last bit.
    torch.testing.assert_close(outputs(exported), outputs(model), rtol=0.2, atol=0.1)
    for space in model.conv._nni_wrapper.quantization_target_spaces.values():
        if space._target_name != "weight":
            space.apply_method = "bypass"
    assert torch.equal(outputs(exported), outputs(model))


def test_nni_cannot_wrap_a_folded_layer_with_a_bias_twice():
    """What ``folding.move_bias`` is for."""
    model = net()
    config = [{"op_names": ["conv"], "target_names": ["weight"], "quant_dtype": "int8", "fuse_names": [("conv", "bn")]}]
    qat = QATQuantizer(model, config, make_evaluator(model))
    model(X)
    qat.unwrap_model()
    qat.wrap_model()
    with pytest.raises(AssertionError):
        model(X)


@pytest.mark.parametrize(
    "fuse, options, message",
    [
        ([("conv", "bn", "relu")], {}, r"is \(Conv2d, BatchNorm2d, ReLU\); .* leave the activation to the config list"),
        ([("conv", "relu")], {}, r"is \(Conv2d, ReLU\)"),
        ([("conv", "bn9")], {}, "fuse_names has 'bn9', which the model does not have"),
        ([("fc1", "bn1")], {}, "fuse_names has 'fc1', which its config does not select"),
        ([("conv", "bn")], {"track_running_stats": False}, "a BatchNorm without running statistics .* do not fold it"),
    ],
)
def test_what_cannot_be_folded(fuse, options, message):
    torch.manual_seed(0)
    model = BatchNormNet(**options)
    with pytest.raises(InputError, match=message):
        PTTQQuantizer(model, [{"op_names": ["conv"], "fuse_names": fuse}])
    assert not any(hasattr(m, "_nni_wrapper") for m in model.modules())
