"""ONNX of any network: names for nested inputs and outputs, two bits for every ternary tensor, int8 that loads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.deploy.nets import ternarise
from tests.zoo import networks as zoo
from ttq_plugin.deploy.onnx.dense import OnnxModule, to_onnx
from ttq_plugin.deploy.onnx.int2 import to_int2
from ttq_plugin.deploy.runtime.agreement import difference
from ttq_plugin.errors import InputError
from ttq_plugin.support.inputs import call, tensors


def codes(proto):
    return {tensor.name.removesuffix(".codes") for tensor in proto.graph.initializer if tensor.data_type == 26}


def agrees(session, model, x, tolerance=1e-5):
    """Tensor by tensor: a graph has no nestings."""
    with torch.inference_mode():
        pairs = zip(tensors(call(session, x)), tensors(call(model, x)), strict=True)
        return all(difference(ours, theirs, tolerance) is None for ours, theirs in pairs)


def test_a_refusal_prints_nothing(capfd):
    """Not even torch prints its graphs."""
    with pytest.raises(InputError, match="^Flow cannot be exported to ONNX: [^\n]*data-dependent[^\n]*\\.$"):
        to_onnx(zoo.network("flow").eval(), zoo.samples("flow", 2))
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


def test_codes_of_half_precision_and_a_word_about_other_types():
    """In float16 two bits give the same weights; double and bfloat16, which codes cannot give, are named."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8, bias=False), nn.ReLU()).eval()
    ternarise(model[0].weight, 0.5)
    x = torch.randn(3, 16)
    half = to_int2(to_onnx(model.half(), x.half()))
    assert codes(half) == {"0.weight"}
    assert agrees(OnnxModule(half), model, x.half(), 1e-3)
    for dtype in (torch.float64, torch.bfloat16):
        with pytest.warns(UserWarning, match=f"0.weight stays float in the ONNX graph: it holds {str(dtype)[6:]}, and"):
            assert codes(to_int2(to_onnx(model.to(dtype), x.to(dtype)))) == set()
