"""Linear layers inside torch's encoder layers, whose fused path in eval mode does not call them; attention."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.nni_adapter.nets import config, make_evaluator
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PTTQQuantizer

LINEARS = ("layers.0.linear1", "layers.0.linear2", "layers.1.linear2")
X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
PADDING = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]).bool()


def encoder():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    for part in model.layers:
        part.linear1.reset_parameters()
    return model.eval()


def by_hand(model, weights, padding=None):
    """The encoder's equations, with these weights in place of the layers' own."""
    x = X
    for index, layer in enumerate(model.layers):

        def linear(name, value, index=index, layer=layer):
            module = getattr(layer, name)
            return F.linear(value, weights.get(f"layers.{index}.{name}", module.weight), module.bias)

        attention = layer.self_attn
        y, _ = F.multi_head_attention_forward(
            x.transpose(0, 1),
            x.transpose(0, 1),
            x.transpose(0, 1),
            8,
            2,
            attention.in_proj_weight,
            attention.in_proj_bias,
            None,
            None,
            False,
            0.0,
            attention.out_proj.weight,
            attention.out_proj.bias,
            training=False,
            key_padding_mask=padding,
            need_weights=False,
        )
        x = layer.norm1(x + y.transpose(0, 1))
        x = layer.norm2(x + linear("linear2", F.relu(linear("linear1", x))))
    return x


def ternary_weights(quantizer):
    """From the definition: the states' codes and scales, and NNI's latent weights."""
    weights = {}
    for name, state in quantizer.states().items():
        codes, (positive, negative) = quantizer.codes()[name], state.scales
        weights[name] = torch.where(codes > 0, positive, torch.where(codes < 0, -negative, 0.0))
    return weights


@torch.no_grad()
@pytest.mark.parametrize("padding", [None, PADDING], ids=["plain", "padded"])
def test_an_evaluation_sees_the_current_ternary_weight(padding):
    model = encoder()
    quantizer = PTTQQuantizer(model, config(*LINEARS))
    keep = slice(None) if padding is None else ~padding

    def check():
        expected = by_hand(model, ternary_weights(quantizer), padding)
        torch.testing.assert_close(model(X, src_key_padding_mask=padding)[keep], expected[keep])
        return expected

    first = check()
    for name, state in quantizer.states().items():
        wrapper = dict(model.named_modules())[name]._nni_wrapper
        wrapper.weight.add_(torch.randn(wrapper.weight.shape) * 0.1)
        state.thresholds.mul_(1.3)
        state.scales.mul_(2)
    assert not torch.allclose(first, check())


@torch.no_grad()
def test_torch_and_nni_alone_evaluate_with_an_old_weight():
    """What the hook in ``lean`` is for."""
    model = encoder()
    quantizer = PTTQQuantizer(model, config(*LINEARS))
    for name in quantizer.states():
        dict(model.named_modules())[name]._nni_wrapper._forward_hooks.clear()
    before = model(X)
    for state in quantizer.states().values():
        state.scales.mul_(2)
    assert torch.equal(model(X), before)


@torch.no_grad()
def test_the_fused_path_is_back_after_unwrapping_and_in_the_export(monkeypatch):
    model = encoder()
    quantizer = PTTQQuantizer(model, config(*LINEARS))
    fused = []
    original = torch._transformer_encoder_layer_fwd
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *a: fused.append(1) or original(*a))
    wrapped = model(X)
    assert not fused
    exported = quantizer.export_model()
    torch.testing.assert_close(exported(X), wrapped)
    assert len(fused) == 2
    quantizer.unwrap_model()
    model(X)
    assert len(fused) == 4
    assert not any(m._forward_hooks for m in [*model.modules(), *exported.modules()])


def test_training_between_evaluations():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(1, 8, 4, stride=4)
            self.encoder = encoder()
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            return self.head(self.encoder(self.stem(x).flatten(2).transpose(1, 2)).mean(1))

    model = Classifier()
    quantizer = PTTQQuantizer(model, config("encoder.layers.1.linear2"), make_evaluator(model))
    image = torch.randn(2, 1, 8, 8)
    seen = []
    for _ in range(2):
        quantizer.compress(None, 1)
        exported = quantizer.export_model()
        with torch.no_grad():
            seen.append(model.eval()(image))
            torch.testing.assert_close(exported.eval()(image), seen[-1])
        copy.deepcopy(exported)
    assert not torch.allclose(*seen)


@pytest.mark.parametrize("name", ["layers.0.self_attn.out_proj", "layers.0.self_attn"])
def test_attention_projections_are_refused(name):
    model = encoder()
    what = "a projection of nn.MultiheadAttention, .* cannot reach them" if "out" in name else "of the class Multihead"
    message = rf"config_list selects '{name}', {what}.*; use ttq_plugin.ternarize or ttq compress"
    with pytest.raises(InputError, match=message):
        PTTQQuantizer(model, config(name))
    assert not any(hasattr(m, "_nni_wrapper") for m in model.modules())


def test_attention_projections_are_not_among_the_linear_layers():
    model = encoder()
    quantizer = PTTQQuantizer(model, [{"op_types": ["Linear"]}])
    assert sorted(quantizer.states()) == sorted(f"layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2))
    with pytest.raises(InputError, match=r"its layers are layers.0.linear1, layers.0.linear2, layers.1.linear1"):
        PTTQQuantizer(encoder(), config("x"))


@torch.no_grad()
def test_attention_reads_its_projection_without_calling_it():
    """Why they are refused."""
    model = encoder()
    model.layers[0].self_attn.out_proj.forward = None
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for _ in range(2):
            assert torch.isfinite(model(X)).all()
            model.train()
