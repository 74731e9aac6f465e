"""C99 of any network: compiled strictly, run under sanitizers, beside torch; and operation by operation."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.deploy.c99.test_c99 import HARNESS, SANITIZED, STRICT, call, run
from tests.deploy.nets import ternarise
from tests.zoo import networks as zoo
from ttq_plugin.deploy.c99.export import Written, export_c
from ttq_plugin.deploy.onnx.dense import OnnxModule, to_onnx
from ttq_plugin.errors import InputError
from ttq_plugin.support import inputs

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")


def compiled(model: nn.Module, x, folder: Path, flags: list[str] = SANITIZED) -> tuple[torch.Tensor, Written]:
    """The C code's outputs of each sample, flat."""
    written = export_c(model, x, folder)
    call("gcc", *STRICT, *flags, "-I", folder, "-o", folder / "program", HARNESS, written.source, "-lm")
    flat = torch.cat([tensor.float().flatten(1) for tensor in inputs.tensors(x)], 1)
    return run([folder / "program"], flat, expected(model, x).shape[1]), written


def expected(model: nn.Module, x) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([tensor.flatten(1) for tensor in inputs.tensors(inputs.call(model, x))], 1)


def check(model: nn.Module, x, folder: Path) -> Written:
    found, written = compiled(model.eval(), x, folder)
    torch.testing.assert_close(found, expected(model, x), rtol=1e-4, atol=1e-5, equal_nan=True)
    return written


def test_a_refusal_prints_nothing_and_writes_nothing(tmp_path, capfd):
    with pytest.raises(InputError, match="^Flow cannot be exported to C: [^\n]*values[^\n]*\\.$"):
        export_c(zoo.network("flow").eval(), zoo.samples("flow", 1), tmp_path / "c")
    said = capfd.readouterr()
    assert not said.out and not said.err and not (tmp_path / "c").exists()


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


POINTWISE = {
    **{f.__name__: f for f in (F.hardtanh, F.relu6, F.silu, F.gelu, F.hardswish, F.hardsigmoid, F.elu, F.softplus)},
    **{f.__name__: f for f in (torch.sigmoid, torch.tanh, torch.exp, torch.erf, torch.sin, torch.cos, torch.abs)},
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardtanh of other bounds": lambda x: F.hardtanh(x, -0.3, 0.7),
    "clamp": lambda x: x.clamp(min=-0.5).clamp(max=0.25) + x.clamp(-1, 1),
    "powers": lambda x: x**2 + x**3 + (x.abs() + 0.1) ** 1.5,
    "roots": lambda x: (x.abs() + 0.1).sqrt() + (x.abs() + 0.2).rsqrt() + (x.abs() + 0.1).log() + 1 / (x.abs() + 0.3),
    "sums": lambda x: torch.sub(2 - x, x * 3, alpha=0.5) + torch.maximum(x, -x) - torch.minimum(x, x * 2) / 7,
    "relu": lambda x: F.relu(x) + F.leaky_relu(x, 0.2),
}
SHAPED = {
    "padded max pooling": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max pooling of every kind": lambda x: F.max_pool2d(x, (2, 3), (1, 2), (1, 1), (2, 1), ceil_mode=True),
    "average pooling": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "average pooling without its padding": lambda x: F.avg_pool2d(x, (3, 2), 2, 1, True, False),
    "average pooling beyond the edge": lambda x: F.avg_pool2d(x, 3, 2, 1, True),
    "adaptive average": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "adaptive maximum": lambda x: F.adaptive_max_pool2d(x, (4, 3)),
    "global mean": lambda x: x.mean((2, 3)),
    "mean of rows": lambda x: x.transpose(1, 3).mean(2, keepdim=True),
    "sums and maxima": lambda x: torch.cat([x.sum(1), x.amax(1)], 1),
    "pooling of signals": lambda x: F.avg_pool1d(F.max_pool1d(x.flatten(1, 2), 3, 2, 1), 2),
    "adaptive pooling of signals": lambda x: F.adaptive_avg_pool1d(x.flatten(1, 2), 5),
    "linear upsampling": lambda x: _joined(
        *(F.interpolate(x, size=(13, 7), mode="bilinear"), nn.UpsamplingBilinear2d(scale_factor=2)(x)),
        *(F.interpolate(x, scale_factor=1.7, mode="bilinear"), F.interpolate(x[:, 0], size=24, mode="linear")),
    ),
    "pad": lambda x: F.pad(x, (1, 2, 0, 3), value=0.5),
    "pad that cuts": lambda x: F.pad(x, (-1, 2, 3, -2)),
    "concatenation": lambda x: torch.cat([x, x[:, :1] * 2, x.flip(1) if False else x[:, 1:]], 1),
    "stack and split": lambda x: torch.stack([*x.split(2, 1), *x[:, :2].chunk(1, 1)], 2),
    "softmax": lambda x: torch.softmax(x, 1) + torch.log_softmax(x, -1),
    "five dimensions": lambda x: (x.unflatten(1, (2, 2)).permute(0, 3, 1, 4, 2) * 2).contiguous() + 1,
    "in place": lambda x: (x * 1).relu_().add_(x).mul_(2),
    "in place, seen by a view": lambda x: _in_place(x),
    "an operand and its own transpose": lambda x: _and_transpose(x[..., :9] * 2),
    "an operand that is read again": lambda x: _again(x * 2),
    "matrix products": lambda x: x @ x.transpose(2, 3) + torch.softmax(x @ x.mT, -1),
    "sums by letters": lambda x: torch.einsum("bchw,bciw->bhi", x, x + 1),
    "masks": lambda x: x.masked_fill(x.new_ones(9, 11).triu() > 0, 0.5) + _hidden(x),
    "pixel shuffle": lambda x: F.pixel_shuffle(x, 2),
    "maxima without places": lambda x: x.max(2)[0] + torch.max(x, -x).sum(2),
}


def _hidden(x):
    later = torch.ones(9, 11, dtype=torch.bool).triu(2)
    return torch.softmax(x.masked_fill(later, -torch.inf), -1)


def _and_transpose(y):
    return y + y.transpose(2, 3)


def _again(y):
    z = F.silu(y) - torch.tanh(y)
    part = z[:, 1:2]
    return F.relu(z) * 2 + part.sigmoid() + z.clamp(0, 1) + F.leaky_relu(z + 1, 0.1)


def _in_place(x):
    y = x * 1
    part = y[:, 1:3]
    part.add_(5)
    part.relu_()
    return y * 2


@pytest.mark.parametrize("name", POINTWISE)
def test_functions_of_numbers(name, tmp_path):
    """What is undefined stays undefined, too."""
    x = 3 * torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    x[1, 2, 3] = float("nan")
    check(Of(POINTWISE[name]), x, tmp_path)


@pytest.mark.parametrize("name", SHAPED)
def test_functions_of_shapes(name, tmp_path):
    x = torch.randn(2, 4, 9, 11, generator=torch.Generator().manual_seed(0))
    check(Of(SHAPED[name]), x, tmp_path)


def _joined(*parts):
    return torch.cat([part.flatten(1) for part in parts], 1)


MOVED = {
    "flips, rolls and places": lambda x: _joined(
        *(x.flip(1, 3), x.transpose(1, 2).flip(1), x.fliplr(), x.roll((1, -2), (2, 3)), x.roll(7, 1)),
        *(x[:, [2, 0, 2]], x.index_select(3, torch.tensor([10, 0])), x[:, :, [-1]]),
    ),
    "nearest upsampling": lambda x: _joined(
        *(F.interpolate(x, scale_factor=2), F.interpolate(x, size=(13, 7)), F.interpolate(x[:, 0], scale_factor=1.7)),
        *(F.interpolate(x, scale_factor=(1.5, 0.6), mode="nearest-exact"), F.interpolate(x.mT, size=9)),
    ),
    "masks": lambda x: _joined(
        torch.where(torch.ones(9, 11).tril() > 0, x, float("inf")),
        torch.where(torch.eye(9, 11) == 1, float("-inf"), x),
        x.masked_fill(~(x < 0.5) & (x != 0) | (x >= 2), -7.5),
        torch.where(x > x.flip(2), x, torch.where(x <= -0.25, x[:, :1], 3.0)),
        (torch.logical_xor(x > 0, x.bool()) | torch.logical_not(x == 2)).float() + (x * 1).masked_fill_(x > 1, 0),
    ),
    "more than four dimensions": lambda x: x.unflatten(1, (2, 2))[..., ::2, ::2].permute(0, 4, 1, 3, 2).contiguous(),
}


@pytest.mark.parametrize("name", MOVED)
def test_numbers_that_only_move_stay_what_they_are(name, tmp_path):
    x = torch.randn(2, 4, 9, 11, generator=torch.Generator().manual_seed(0))
    x[1, 0, 3, 3:5], x[1, 2, 1, 0] = torch.tensor([float("inf"), -float("inf")]), float("nan")
    found, _ = compiled(Of(MOVED[name]).eval(), x, tmp_path)
    truth = expected(Of(MOVED[name]), x)
    assert torch.equal(found.isnan(), truth.isnan()) and torch.equal(found.nan_to_num(7.25), truth.nan_to_num(7.25))


class Bags(nn.Module):
    """Words as bags, and attention with a mask that is computed."""

    def __init__(self):
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(10, 8, mode=mode) for mode in ("sum", "mean", "max"))

    def forward(self, tokens):
        found = torch.cat([bag(tokens)[:, None] for bag in self.bags], 1)[:, None]
        return F.scaled_dot_product_attention(found, found, found, attn_mask=found[..., :3] > 0) + found


def test_bags_of_words(tmp_path):
    """One query may look at no key, which gives zeros."""
    torch.manual_seed(0)
    model, x = Bags(), torch.randint(0, 10, (3, 5))
    found = torch.cat([bag(x)[:, None] for bag in model.bags], 1)
    assert not (found[..., :3] > 0).any(-1).all()
    check(model, x, tmp_path)


LAYERS = {
    "depthwise, dilated": lambda: nn.Conv2d(4, 8, 3, stride=(1, 2), padding=2, dilation=(2, 1), groups=4),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed, grouped, dilated": lambda: nn.ConvTranspose2d(4, 6, (3, 2), stride=(1, 3), dilation=(2, 1), groups=2),
    "transposed, of signals": lambda: nn.Sequential(
        nn.Flatten(1, 2), nn.ConvTranspose1d(36, 5, 4, stride=3, padding=2)
    ),
    "padded before": lambda: nn.Sequential(nn.ZeroPad2d((2, 1, 0, 3)), nn.Conv2d(4, 3, 3, stride=2, padding=1)),
    "padded by a number": lambda: nn.Sequential(nn.ConstantPad2d((2, 1, 0, 3), 0.5), nn.Conv2d(4, 3, 3, stride=2)),
    "BatchNorm first": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1)),
    "padded pooling after a layer": lambda: nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU6(), nn.MaxPool2d(3, 2, 1)),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "RMSNorm": lambda: nn.RMSNorm(11),
    "LayerNorm": lambda: nn.LayerNorm((9, 11)),
    "PReLU": lambda: nn.PReLU(4),
    "InstanceNorm": lambda: nn.InstanceNorm2d(4, affine=True),
    "padded to the same size": lambda: nn.Conv2d(4, 3, (4, 3), padding="same", dilation=(1, 2)),
    "parts of one matrix": lambda: Parts(),
    "cells": lambda: CellsInALoop(),
    "keys of another width": lambda: Across(),
    "LSTM": lambda: nn.Sequential(nn.Flatten(1, 2), nn.LSTM(11, 6, 2, batch_first=True, bidirectional=True), First()),
    "GRU": lambda: nn.Sequential(nn.Flatten(1, 2), nn.GRU(11, 6, batch_first=True, bias=False), First()),
    "states": lambda: nn.Sequential(nn.Flatten(1, 2), nn.GRU(11, 6, 2, batch_first=True, bidirectional=True), Last()),
    "RNN": lambda: nn.Sequential(nn.Flatten(1, 2), nn.RNN(11, 6, batch_first=True), First()),
    "attention": lambda: nn.Sequential(nn.Flatten(1, 2), nn.Linear(11, 8), Attention()),
    "embedding": lambda: nn.Sequential(nn.Flatten(), Of(lambda x: (x.abs() * 3).clamp(max=9)), Tokens()),
}


class Parts(nn.Module):
    """Products with parts of one parameter, and with a vector."""

    def __init__(self):
        super().__init__()
        self.matrix, self.query = nn.Parameter(torch.randn(11, 8)), nn.Parameter(torch.randn(8))

    def forward(self, x):
        first, rest = x @ self.matrix[:, :3], x[..., :6] @ self.matrix[2:8, 3:]
        return torch.cat([first, rest], -1) @ self.query, x[:, :, :8, 0] @ self.matrix.T[:, :5], first


class CellsInALoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.gru = nn.LSTMCell(11, 6), nn.GRUCell(6, 5)

    def forward(self, x):
        state = (x.new_zeros(len(x), 6), torch.ones(len(x), 6))
        hidden = torch.zeros(len(x), 5)
        for step in x.flatten(1, 2)[:, :4].unbind(1):
            state = self.lstm(step, state)
            hidden = self.gru(state[0], hidden)
        return hidden


class Across(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(11, 11, kdim=6, vdim=5, batch_first=True)

    def forward(self, x):
        y = x[:, 0]
        return self.attention(y, y[..., :6], y[..., 6:])


class First(nn.Module):
    def forward(self, found):
        return found[0]


class Last(nn.Module):
    def forward(self, found):
        return found[1].transpose(0, 1)


class Attention(nn.Module):
    """With a mask, causal, and with heads that share keys."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.ones(36, 36, dtype=torch.bool).tril(3))

    def forward(self, x):
        q = x.unflatten(2, (4, 2)).transpose(1, 2)
        a = F.scaled_dot_product_attention(q, q, q, attn_mask=self.mask)
        b = F.scaled_dot_product_attention(q, q, q, is_causal=True)
        return a + b + F.scaled_dot_product_attention(q, q[:, :2], q[:, 2:], enable_gqa=True)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(10, 3)

    def forward(self, x):
        return self.words(torch.zeros(1, 2, dtype=torch.int64)) + x[:, :2, None]


@pytest.mark.parametrize("zeros", [None, 0.8])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, zeros, tmp_path):
    torch.manual_seed(0)
    model = LAYERS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    if zeros is not None:
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.Linear):
                ternarise(module.weight, zeros)
    written = check(model, torch.randn(2, 4, 9, 11), tmp_path)
    if zeros is not None and "transposed" in name:
        assert set(written.kinds.values()) <= {"gaps", "trits"}, "codes survive being turned"


@pytest.mark.parametrize("kind", ["gaps", "trits", "bytes", "floats"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_undefined_and_infinite_numbers_are_lost_nowhere(kind, value, tmp_path):
    """Neither under zero weights nor in max pooling."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Conv2d(5, 6, 1))
    for layer in (model[0], model[3]):
        if kind in {"gaps", "trits"}:
            ternarise(layer.weight, 0.9 if kind == "gaps" else 0.2)
        elif kind == "bytes":
            with torch.no_grad():
                layer.weight.copy_(torch.randint(-3, 4, layer.weight.shape) * 0.125)
        layer.weight.requires_grad_(False)[0] = 0
    x = torch.randn(3, 2, 8, 8)
    x[1, 0, 3, 3] = value
    x[2, 1, 0, 7] = -value
    written = check(model, x, tmp_path)
    assert kind in written.kinds.values()
    assert not expected(model, x)[1:].isfinite().all() and expected(model, x)[0].isfinite().all()


class Sequences(nn.Module):
    """Tokens, looked up and run through two recurrent layers; beside them a signal that may be anything."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(40, 7)
        self.forth = nn.LSTM(10, 12, batch_first=True, bidirectional=True)
        self.back = nn.GRU(24, 9, batch_first=True, bias=False)
        self.tied = nn.Linear(7, 40, bias=False)
        self.tied.weight = self.words.weight

    def forward(self, tokens, signal):
        words = self.words(tokens)
        found, _ = self.forth(torch.cat([words, signal], 2))
        return self.back(found)[0], self.tied(words)


@pytest.mark.parametrize("kind", ["gaps", "gaps a row", "trits", "bytes", "floats"])
def test_embeddings_and_recurrent_weights_as_codes(kind, tmp_path):
    torch.manual_seed(0)
    model = Sequences()
    zeros = {"gaps": 0.9, "gaps a row": 0.8, "trits": 0.2}.get(kind)
    weights = [w for w in model.parameters() if w.dim() == 2]
    with torch.no_grad():
        for weight in weights:
            if zeros is not None:
                ternarise(weight, zeros)
            if kind == "gaps a row":
                weight.mul_(torch.rand(len(weight), 1) + 0.5)
            if kind == "bytes":
                weight.copy_(torch.randint(-100, 101, weight.shape) * 0.003)
    x = torch.randint(0, 40, (4, 6)), torch.randn(4, 6, 3)
    x[1][2, 1, 0], x[1][3, 5, 2] = float("inf"), float("nan")
    written = check(model, x, tmp_path)
    [table] = written.kinds.keys() & {"words.weight", "tied.weight"}
    assert written.kinds.pop(table) == ("trits" if zeros else kind), "which can be read anywhere"
    assert len(written.kinds) == 6 and set(written.kinds.values()) == {kind.split()[0]}
    for twin in (nn.LSTM(10, 12, batch_first=True), nn.Embedding(40, 7)):  # without a layer beside
        for weight in twin.parameters():
            if weight.dim() == 2 and zeros is not None:
                ternarise(weight, zeros)
        single = nn.Sequential(twin, First()) if isinstance(twin, nn.LSTM) else twin
        check(single, torch.randn(2, 5, 10) if isinstance(twin, nn.LSTM) else torch.randint(0, 40, (3, 2)), tmp_path)


class KeepsItsActivation(nn.Module):
    """With the graph that made it, which Python does not copy."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        y = self.layer(x)
        if not torch.compiler.is_compiling():
            self.kept = y
        return y.relu()


@pytest.mark.parametrize("form", ["c", "onnx"])
def test_a_model_that_cannot_be_copied_as_it_is(form, tmp_path):
    model, x = KeepsItsActivation(), torch.randn(2, 6)
    model(x)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    if form == "c":
        check(model, x, tmp_path)
    else:
        torch.testing.assert_close(OnnxModule(to_onnx(model, x))(x), model(x).detach())


class Everything(nn.Module):
    def forward(self, x, *, more):
        return {"sum": x + more["a"], "rest": (more["b"] * 2, 3)}


def test_inputs_and_outputs_of_any_nesting(tmp_path):
    x = {"x": torch.randn(2, 3), "more": {"a": torch.randn(2, 3), "b": torch.randint(0, 9, (2, 2, 2))}}
    written = check(Everything(), x, tmp_path)
    text = written.header.read_text()
    assert "MODEL_INPUTS 10 /* 3; 3; 2 x 2, the last" in text and "MODEL_OUTPUTS 7 /* 3; 2 x 2 */" in text


class Writes(nn.Module):
    def forward(self, x):
        y = x[:, 1:]
        y.add_(1)
        return x * 2


class Cells(nn.Module):
    def forward(self, found):
        return found[1][1]


class Rounds(nn.Module):
    def forward(self, x):
        return x.to(torch.int64)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.ReLU(), nn.ReflectionPad1d(1)), "uses pad with mode reflect in its layer 1, which has"),
        (Writes(), "Writes changes an input or a parameter in place"),
        (Of(lambda x: F.max_pool1d(x, 2, return_indices=True)[1]), "uses max_pool[12]d_with_indices, which has"),
        (nn.Sequential(nn.LSTM(4, 3, batch_first=True), Cells()), "uses output 2 of lstm in its layer 0"),
        (Rounds(), "a conversion from torch.float32 to torch.int64"),
        (nn.LSTM(4, 3, proj_size=2, batch_first=True), "cannot be exported|projections"),
        (nn.Sequential(nn.GRU(4, 3), First()), "uses gru over 3 sequences of one sample in its layer 0"),
        (Of(lambda x: torch.div(x, 2, rounding_mode="floor")), "div with rounding"),
        (Of(lambda x: torch.cumsum(x, 1)), "uses cumsum"),
        (Of(lambda x: F.softplus(x, 2)), "softplus with beta=2"),
    ],
)
def test_what_has_no_c_code_is_named(model, message, tmp_path):
    with pytest.raises(InputError, match=message):
        export_c(model.eval(), torch.randn(1, 3, 4), tmp_path / "c")
    assert not (tmp_path / "c").exists()
