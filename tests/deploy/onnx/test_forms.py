"""ONNX of any network: names for nested inputs and outputs, two bits for every ternary tensor, int8 that loads."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from tests.deploy import zoo
from tests.deploy.nets import ternarise
from ttq_plugin.deploy.onnx.dense import OnnxModule, to_onnx
from ttq_plugin.deploy.onnx.int2 import to_int2
from ttq_plugin.deploy.onnx.int8 import to_int8
from ttq_plugin.deploy.runtime.agreement import difference
from ttq_plugin.errors import InputError
from ttq_plugin.support.inputs import call, tensors

QUICK = {"unet", "shared", "tied", "twoin", "dictio", "dictout"}
NAMES = {
    "twoin": (["x", "z"], ["logits"]),
    "dictio": (["x"], ["logits", "reg"]),
    "dictout": (["x"], ["logits", "reg"]),
}


def codes(proto):
    return {tensor.name.removesuffix(".codes") for tensor in proto.graph.initializer if tensor.data_type == 26}


def agrees(session, model, x, tolerance=1e-5):
    """Tensor by tensor: a graph has no nestings."""
    with torch.inference_mode():
        pairs = zip(tensors(call(session, x)), tensors(call(model, x)), strict=True)
        return all(difference(ours, theirs, tolerance) is None for ours, theirs in pairs)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.long) for n in zoo.NAMES if n != "flow"],
)
def test_any_network_in_three_forms(name):
    """The float graph and the two-bit one give torch's outputs for any batch; int8 loads and is not far off."""
    model, x = zoo.network(name), zoo.inputs(name, 2)
    proto = to_onnx(model, x)
    floats = OnnxModule(proto)
    inputs, outputs = NAMES.get(name, (["x"], ["logits"]))
    assert (floats.names, floats.results) == (inputs, outputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        packed = to_int2(proto)
    ternary = {m.weight.data_ptr() for m in model.modules() if zoo.is_ternary(m)}
    assert len(codes(packed) - {"cls"}) == len(ternary)  # a token of zeros alone is ternary, too
    for batch in (1, 2, 5):
        y = zoo.inputs(name, batch)
        assert agrees(floats, model, y) and agrees(OnnxModule(packed), model, y)
    small = OnnxModule(to_int8(proto, zoo.inputs(name, 4)))
    assert (small.names, small.results) == (inputs, outputs) and agrees(small, model, x, 0.5)


def test_control_flow_is_refused_in_a_sentence(capfd):
    """And torch does not print its graphs."""
    with pytest.raises(InputError, match="^Flow cannot be exported to ONNX: [^\n]*data-dependent[^\n]*\\.$"):
        to_onnx(zoo.network("flow"), zoo.inputs("flow", 2))
    said = capfd.readouterr()
    assert not said.out and not said.err


class Nested(nn.Module):
    """Keywords with nestings inside, and names that would clash."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, features, *, extra):
        a, b = extra["pair"]
        return {"out": (self.layer(features["x"]), a + b), "x": extra["x"] * 2}


def test_names_of_nestings():
    model = Nested().eval()

    def batch(samples):
        pair = [torch.randn(samples, 4), torch.randn(samples, 4)]
        return {"features": {"x": torch.randn(samples, 4)}, "extra": {"pair": pair, "x": torch.randn(samples, 2)}}

    session = OnnxModule(to_onnx(model, batch(3)))
    assert session.names == ["features.x", "extra.pair.0", "extra.pair.1", "extra.x"]
    assert session.results == ["out.0", "out.1", "x"]
    x = batch(5)
    found, expected = session(**x), model(**x)
    torch.testing.assert_close(found["out.0"], expected["out"][0])
    torch.testing.assert_close(found["out.1"], expected["out"][1])
    torch.testing.assert_close(found["x"], expected["x"])
    assert all(torch.equal(a, b) for a, b in zip(session(*tensors(x)).values(), found.values(), strict=True))
    for wrong in ({"x": torch.ones(1)}, (torch.ones(1, 4),), tuple(torch.ones(1, 4) for _ in range(5)), ()):
        with pytest.raises(InputError, match="the graph's inputs are features.x, extra.pair.0, .* got"):
            call(session, wrong)


def test_a_model_that_does_not_take_the_example():
    with pytest.raises(InputError, match="Linear does not take the example input: mat1 and mat2"):
        to_onnx(nn.Linear(3, 2), torch.ones(2, 4))


class Layers(nn.Module):
    """Ternary weights that no Conv or plain MatMul reads: transposed convolutions, an embedding, a shared matrix."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(40, 16)
        self.up = nn.ConvTranspose1d(16, 12, 4, stride=2)
        self.groups = nn.ConvTranspose1d(12, 12, 5, groups=3)
        self.matrix = nn.Linear(12, 16, bias=False)
        self.out = nn.Linear(16, 40, bias=False)
        self.out.weight = self.words.weight
        ternarise(self.words.weight, 0.5)
        for channel in range(12):
            ternarise(self.up.weight[:, channel], 0.5)
        ternarise(self.groups.weight, 0.4)
        for row in self.matrix.weight:
            ternarise(row, 0.5)

    def forward(self, x):
        x = self.groups(torch.relu(self.up(self.words(x).transpose(1, 2))))
        return self.out(torch.relu(self.matrix(x.transpose(1, 2))))


def test_every_kind_of_ternary_weight_becomes_two_bits():
    torch.manual_seed(0)
    model = Layers().eval()
    proto = to_onnx(model, torch.randint(0, 40, (2, 9)))
    packed = to_int2(proto)
    # The matrix that is read as it is and transposed is there twice.
    assert {"up.weight", "groups.weight", "out.weight"} < codes(packed) and len(codes(packed)) == 5
    assert not [
        t.name for t in packed.graph.initializer if t.data_type == t.FLOAT and len(t.dims) > 1 and len(t.raw_data) > 99
    ]
    x = torch.randint(0, 40, (3, 9))
    assert torch.equal(OnnxModule(packed, unpack=True)(x), OnnxModule(proto)(x))
    assert agrees(OnnxModule(packed), model, x)
    assert packed.ByteSize() < proto.ByteSize() / 2


class TwoWays(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(16, 16, bidirectional=True, batch_first=True)
        for name, weight in self.lstm.named_parameters():
            if weight.dim() == 2 and "ih" in name:
                for row in weight:
                    ternarise(row, 0.5)

    def forward(self, x):
        return self.lstm(x)[0]


def test_what_onnx_cannot_hold_is_named():
    """ONNX joins the matrices of both directions: rows of each have scales of their own."""
    torch.manual_seed(0)
    model = TwoWays().eval()
    proto = to_onnx(model, torch.randn(2, 5, 16))
    with pytest.warns(UserWarning, match="stays float in the ONNX graph: its ternary scales vary along two dimensions"):
        packed = to_int2(proto)
    assert agrees(OnnxModule(packed), model, torch.randn(3, 5, 16))
