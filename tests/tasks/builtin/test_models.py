"""The papers' 2D CNN and CNN-Transformer: sizes, and torch's own encoder layer as the oracle."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import nn

from ttq_plugin.support.inputs import call
from ttq_plugin.tasks import TASKS, get_task
from ttq_plugin.tasks.builtin.cnn import CNN2D
from ttq_plugin.tasks.builtin.transformer import CNNTransformer, EncoderLayer, sinusoids


def hits_transformer():
    return CNNTransformer(2, 1400, 3, width=128, layers=8, hidden=64, projection=10)


@pytest.mark.parametrize(
    "model, shape, parameters, quantised, share",
    [
        (CNN2D(), (1, 32, 37), 1_555_842, ["conv2", "conv3", "conv4"], 99.51),
        (CNN2D(3, 224, 96, 3), (3, 224, 96), 1_681_923, ["conv2", "conv3", "conv4"], 92.05),
        (CNNTransformer(), (1, 178), 109_942, ["conv2", *(f"encoder.{i}.linear2" for i in range(4))], 24.22),
        (hits_transformer(), (2, 1400), 766_271, ["conv2", *(f"encoder.{i}.linear2" for i in range(8))], 14.97),
    ],
    ids=["esr-2dcnn", "hits-2dcnn", "esr-cnn-transformer", "hits-cnn-transformer"],
)
def test_the_papers_parameters(model, shape, parameters, quantised, share):
    assert sum(p.numel() for p in model.parameters()) == parameters
    weights = sum(model.get_submodule(name).weight.numel() for name in quantised)
    assert round(100 * weights / parameters, 2) == share
    logits = model.train()(torch.rand(2, *shape))
    assert logits.shape == (2, 2 if parameters in (1_555_842, 109_942) else 3)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_knows_the_shape_of_its_samples(name):
    """Without loading data; that the data have it, the tests of each task's data see by training."""
    task = get_task(name)
    model = task.model().eval()
    assert call(model, task.noise(2)).shape[0] == 2
    if task.name == "mnist-cnn":
        assert task.load(None, 0).test.x.shape[1:] == task.shape


@pytest.mark.parametrize("model, shape", [(CNN2D(dropout=0), (1, 32, 37)), (CNNTransformer(), (1, 178))])
def test_every_parameter_learns_and_every_layer_is_called(model, shape):
    calls = Counter()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LayerNorm))}
    for name, module in layers.items():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    model.train()(torch.rand(4, *shape)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():  # where torch's own encoder layers would not call theirs
        model.eval()(torch.rand(4, *shape))
    assert calls == {name: 4 if name == "conv3" and len(shape) == 2 else 2 for name in layers}


def twins(dtype=torch.float64, dropout=0.0):
    """Torch's encoder layer and ours with the same weights."""
    torch.manual_seed(0)
    torchs = nn.TransformerEncoderLayer(12, 3, 7, dropout=dropout, batch_first=True).to(dtype)
    with torch.no_grad():
        for parameter in torchs.parameters():
            parameter.normal_(std=0.5)
    ours = EncoderLayer(12, 3, 7, dropout).to(dtype)
    weights = {k: v for k, v in torchs.state_dict().items() if not k.startswith("self_attn")}
    attention = torchs.self_attn
    for kind in ("weight", "bias"):
        parts = getattr(attention, f"in_proj_{kind}").detach().chunk(3)
        weights |= {f"attention.{n}.{kind}": part for n, part in zip(("query", "key", "value"), parts, strict=True)}
        weights[f"attention.output.{kind}"] = getattr(attention.out_proj, kind).detach()
    ours.load_state_dict(weights)
    return torchs, ours


def test_the_encoder_layer_is_torchs():
    torchs, ours = (layer.eval() for layer in twins())
    x = torch.randn(5, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(ours(x), torchs(x), rtol=1e-12, atol=1e-12)
    with torch.no_grad():  # torch takes its fused path here
        torch.testing.assert_close(ours(x), torchs(x), rtol=1e-12, atol=1e-12)


def test_so_are_its_gradients():
    torchs, ours = twins()
    x = torch.randn(5, 9, 12, dtype=torch.float64)
    found = []
    for layer in (torchs, ours):
        inputs = x.clone().requires_grad_()
        layer.train()(inputs).pow(3).sum().backward()
        found.append(inputs.grad)
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-11)
    joined = torch.cat([getattr(ours.attention, name).weight.grad for name in ("query", "key", "value")])
    torch.testing.assert_close(joined, torchs.self_attn.in_proj_weight.grad, rtol=1e-11, atol=1e-11)


def test_so_is_its_dropout_draw_for_draw():
    torchs, ours = (layer.train() for layer in twins(dropout=0.4))
    x = torch.randn(1, 9, 12, dtype=torch.float64)  # torch's layout in memory, and so its draws, differ beyond one
    outputs = []
    for layer in (torchs, ours):
        torch.manual_seed(1)
        outputs.append(layer(x))
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)


def test_dropout_acts_in_training_only():
    _, layer = twins(dropout=0.5)
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    assert not torch.equal(layer.train()(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))
    picture = torch.rand(64, 1, 32, 37)
    model = CNN2D(dropout=0.5)
    assert not bool((model.eval()(picture) == 0).any())
    assert 0.3 < (model.train()(picture) == 0).float().mean() < 0.7  # after the last layer, as in the papers


def test_positions_by_their_formula():
    table = sinusoids(7, 6)
    for token in range(7):
        for i in range(3):
            angle = token / 10_000 ** (2 * i / 6)
            assert table[token, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[token, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_what_enters_the_encoder_and_what_leaves_it():
    torch.manual_seed(0)
    model = CNNTransformer().eval()
    seen = {}
    model.conv3.register_forward_hook(lambda _, __, out: seen.update(conv=out))
    model.encoder.register_forward_hook(lambda _, args, out: seen.update(tokens=args[0], encoded=out))
    x = torch.rand(3, 1, 178)
    logits = model(x)
    features = nn.functional.leaky_relu(nn.functional.max_pool1d(seen["conv"], 2)).transpose(1, 2)
    assert seen["tokens"].shape == (3, 10, 64)
    torch.testing.assert_close(seen["tokens"][:, 1:], 8 * features + sinusoids(10, 64)[1:])
    torch.testing.assert_close(seen["tokens"][:, 0], (8 * model.class_token[0] + sinusoids(1, 64)).expand(3, -1))
    head = nn.Sequential(model.norm1, model.fc1, model.norm2, model.fc2)
    torch.testing.assert_close(logits, head(seen["encoded"][:, 0]))


@pytest.mark.parametrize("n_conv", [1, 2, 3])
@pytest.mark.parametrize("length", [119, 120, 178])
def test_positions_fit_any_length(n_conv, length):
    assert CNNTransformer(1, length, n_conv=n_conv).eval()(torch.rand(2, 1, length)).shape == (2, 2)


def test_positions_are_no_weights():
    assert "positions" not in CNNTransformer().state_dict()
