"""ONNX: onnxruntime's outputs are torch's; two-bit codes are bit for bit the same weights; int8 keeps the MCC."""

from __future__ import annotations

import functools
import sys

import numpy as np
import pytest
import torch
from torch import nn

from tests.deploy.nets import TERNARY, made, trained
from ttq_plugin.deploy.onnx.dense import OPSET, OnnxModule, to_onnx
from ttq_plugin.deploy.onnx.int2 import to_int2, two_bits
from ttq_plugin.deploy.onnx.int8 import to_int8
from ttq_plugin.errors import InputError
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.scoring.scores import score as scored
from ttq_plugin.tasks.task import Split

TASKS = ["mnist-cnn", "esr-2dcnn", "esr-cnn-transformer"]
RECORDINGS = "Epileptic Seizure Recognition.csv.gz"


@functools.cache
def exported(task: str):
    """The model and its float graph, made once."""
    model = made(task)
    return model, to_onnx(model, torch.zeros(1, *get_task(task).shape))


def outputs(model, x):
    with torch.inference_mode():
        return model(x)


def initialisers(proto, kind):
    return {tensor.name: tensor for tensor in proto.graph.initializer if tensor.data_type == kind}


@pytest.mark.parametrize("task", TASKS)
def test_float_graphs_of_any_batch_size(task):
    model, proto = exported(task)
    session = OnnxModule(proto)
    for batch in (1, 5):
        x = torch.randn(batch, *get_task(task).shape)
        torch.testing.assert_close(session(x), outputs(model, x), rtol=1e-5, atol=1e-5)
    assert [entry.version for entry in proto.opset_import if not entry.domain] == [OPSET]
    # torch notes the source lines of every node, with the paths of the machine.
    assert b".py" not in proto.SerializeToString()


@pytest.mark.parametrize("task", TASKS)
def test_two_bit_weights_are_the_same_weights(task):
    model, proto = exported(task)
    packed = to_int2(proto)
    x = torch.randn(4, *get_task(task).shape)
    # Multiplied out when it is loaded, it is the float graph: the outputs are equal to the last bit.
    assert torch.equal(OnnxModule(packed, unpack=True)(x), OnnxModule(proto)(x))
    torch.testing.assert_close(OnnxModule(packed)(x), outputs(model, x), rtol=1e-5, atol=1e-5)
    codes = initialisers(packed, 26)
    assert len(codes) == len(TERNARY[task])
    floats = sum(model.get_submodule(name).weight.numel() * 4 for name in TERNARY[task])
    assert sum(len(tensor.raw_data) for tensor in codes.values()) == floats / 16
    # What a ternary layer costs beside its codes: two scales, or two a channel where BatchNorm is folded into it.
    saved, names = proto.ByteSize() - packed.ByteSize(), 400 * len(codes)
    scales = 8 * sum(model.get_submodule(name).weight.shape[0] for name in TERNARY[task])
    assert floats * 15 / 16 - scales - names < saved < floats * 15 / 16


class Forms(nn.Module):
    """One layer for each way of writing two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.larger = nn.Conv1d(2, 40, 5)
        self.mixed = nn.Conv1d(40, 6, 3)
        self.single = nn.Conv1d(6, 6, 3)
        self.smaller = nn.Linear(6, 30, bias=False)
        self.tiny = nn.Conv1d(30, 30, 1, groups=30)
        self.last = nn.Linear(30, 3)
        rising = torch.linspace(0.1, 0.6, 6).reshape(6, 1, 1)
        with torch.no_grad():
            for layer, positive, negative in (
                (self.larger, 0.75, 0.5),
                (self.mixed, rising, rising.flip(0)),
                (self.single, 0.3, 0.3),
                (self.smaller, 0.1, 0.7),
            ):
                codes = torch.randint(-1, 2, layer.weight.shape)
                layer.weight.copy_(torch.where(codes > 0, positive, torch.where(codes < 0, -negative, 0.0)))

    def forward(self, x):
        x = self.single(self.mixed(torch.relu(self.larger(x))))
        x = self.smaller(x.transpose(1, 2)).transpose(1, 2)
        return self.last(self.tiny(x).mean(2))


def test_every_way_of_writing_two_scales():
    torch.manual_seed(1)
    model = Forms().eval()
    x = torch.randn(3, 2, 30)
    proto = to_onnx(model, x)
    packed = to_int2(proto)
    assert torch.equal(OnnxModule(packed, unpack=True)(x), OnnxModule(proto)(x))
    torch.testing.assert_close(OnnxModule(packed)(x), outputs(model, x), rtol=1e-5, atol=1e-5)
    made_of = {}
    for node in packed.graph.node:
        made_of.setdefault(node.op_type, []).append(node.output[0])
    assert len(initialisers(packed, 26)) == 4  # `tiny` has one value a channel, but codes would be larger
    assert len(made_of["DequantizeLinear"]) == 7
    assert "larger.weight" in made_of["Max"] and "mixed.weight" in made_of["Add"]
    assert "single.weight" in made_of["DequantizeLinear"] and len(made_of["Min"]) == 2


def test_codes_lie_as_onnx_reads_them():
    from onnx import TensorProto, numpy_helper

    codes = np.random.default_rng(0).integers(-1, 2, (3, 7)).astype(np.int8)
    tensor = TensorProto(data_type=TensorProto.INT2, dims=codes.shape, raw_data=two_bits(codes))
    assert np.array_equal(numpy_helper.to_array(tensor).astype(np.int8), codes)


def check_scores(task, source=None):
    """The MCC on real validation data: equal for float and two-bit weights, almost for int8, which is calibrated."""
    model, data = trained(task, source)
    part = Split(data.validation.x[:400], data.validation.y[:400])
    score, expected = scored(model, part).value, outputs(model, part.x)
    assert score > 0.75
    proto = to_onnx(model, data.train.x)
    for graph in (proto, to_int2(proto)):
        session = OnnxModule(graph, unpack=True)
        torch.testing.assert_close(session(part.x), expected, rtol=1e-4, atol=1e-4)
        assert scored(session, part).value == score
    small = to_int8(proto, data.train.x[:128])
    assert abs(scored(OnnxModule(small), part).value - score) < 0.06  # a decision in 400 is up to a point
    assert small.ByteSize() < proto.ByteSize() / 2
    weights = [tensor.dims for tensor in initialisers(small, 3).values() if len(tensor.dims) > 1]
    assert sorted(map(list, weights)) == sorted(list(p.shape) for p in model.parameters() if p.dim() > 1)


def test_scores_on_real_digits():
    check_scores("mnist-cnn")


def test_scores_on_real_recordings(shared):
    check_scores("esr-2dcnn", shared / "data" / RECORDINGS)


def test_a_transformer_on_real_recordings(shared):
    model, proto = exported("esr-cnn-transformer")
    data = get_task("esr-cnn-transformer").load(shared / "data" / RECORDINGS, 0)
    x = data.validation.x[:400]
    expected = outputs(model, x)
    for graph in (proto, to_int2(proto)):
        torch.testing.assert_close(OnnxModule(graph, unpack=True)(x), expected, rtol=1e-4, atol=1e-5)
    error = (OnnxModule(to_int8(proto, data.train.x[:64]))(x) - expected).abs().mean()
    assert error < 0.01 * expected.abs().max()


def test_int8_without_samples():
    with pytest.raises(InputError, match="int8 needs real samples to calibrate"):
        to_int8(exported("mnist-cnn")[1], torch.zeros(0, 1, 20, 20))


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.reshape(2, 4)


@pytest.mark.parametrize(
    "model, message",
    [(Bessel(), "Bessel cannot be exported to ONNX: .*bessel_j0"), (FixedBatch(), "FixedBatch fixes its batch size")],
)
def test_models_that_cannot_be_exported(model, message):
    with pytest.raises(InputError, match=message):
        to_onnx(model, torch.randn(2, 4))


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"need the package onnxscript, .*pip install 'ttq-plugin\[deploy\]'"):
        to_onnx(nn.Linear(2, 2), torch.zeros(1, 2))
