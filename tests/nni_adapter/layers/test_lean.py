"""The short way through NNI's wrapper is taken only where nothing else was asked of the wrapper."""

from __future__ import annotations

import copy

import pytest
import torch
from nni.compression.base.wrapper import ModuleWrapper
from nni.compression.distillation import DynamicLayerwiseDistiller
from nni.compression.pruning import TaylorPruner
from nni.compression.quantization import QATQuantizer

from tests.nni_adapter.nets import Net, batches, config, make_evaluator
from ttq_plugin.nni_adapter import PTTQQuantizer

X = batches(1)[0][0]


@pytest.fixture
def long_way(monkeypatch):
    """Names of the layers that go through NNI's own forward."""
    names = []
    original = ModuleWrapper.forward

    def forward(self, *args, **kwargs):
        names.append(self.name)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(ModuleWrapper, "forward", forward)
    return names


def make():
    torch.manual_seed(0)
    model = Net()
    return model, PTTQQuantizer(model, config("conv1", "conv2"), make_evaluator(model))


def distil(quantizer):
    targets = [{"op_names": ["conv1"], "target_names": ["_output_"], "lambda": 1.0}]
    teacher = Net()
    return DynamicLayerwiseDistiller.from_compressor(quantizer, targets, teacher, lambda batch, model: model(batch[0]))


def int8(target):
    def join(quantizer):
        targets = [{"op_names": ["conv1"], "target_names": [target], "quant_dtype": "int8"}]
        return QATQuantizer.from_compressor(quantizer, targets)

    return join


def int8_unwatched(quantizer):
    """The joined target alone must count, without the functions that follow it."""
    joined = int8("_input_")(quantizer)
    wrapper = joined._module_wrappers["conv1"]
    wrapper._track_funcs = wrapper._track_funcs[:1]
    return joined


def prune(quantizer):
    return TaylorPruner.from_compressor(quantizer, [{"op_names": ["conv1"], "sparse_ratio": 0.5}], 1)


@pytest.mark.parametrize("join", [prune, distil, int8("_input_"), int8("_output_"), int8("bias"), int8_unwatched])
def test_the_layer_that_another_compressor_joined_goes_the_long_way(long_way, join):
    model, quantizer = make()
    model(X)
    assert not long_way
    join(quantizer)
    model(X)
    assert long_way == ["conv1"], "and the other one still the short way"


def test_bias_correction_and_other_watchers_go_the_long_way(long_way):
    model, _ = make()
    model.conv1._nni_wrapper.is_bias_correction = True
    model.conv2._nni_wrapper.register_track_func(lambda wrapper, name, target: None)
    model(X)
    assert long_way == ["conv1", "conv2"]
    assert hasattr(model.conv1._nni_wrapper, "bias_correction")


def test_a_weight_that_was_switched_off_goes_the_long_way(long_way):
    model, _ = make()
    model.conv1._nni_wrapper.weight_scale = None
    model(X)
    assert long_way == ["conv1"] and len(model.conv1.weight.unique()) > 3


def test_both_ways_compute_the_same():
    model, quantizer = make()
    short = model(X)
    short.square().sum().backward()
    twin, _ = make()
    for wrapper in (twin.conv1._nni_wrapper, twin.conv2._nni_wrapper):
        wrapper.register_track_func(lambda wrapper, name, target: None)
    long = twin(X)
    long.square().sum().backward()
    assert torch.equal(short, long)
    for one, two in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert one[0] == two[0] and torch.equal(one[1].grad, two[1].grad), one[0]


def test_the_short_way_survives_an_export_and_an_unwrapping(long_way):
    model, quantizer = make()
    copy.deepcopy(quantizer.export_model())(X)
    model(X)
    quantizer.unwrap_model()
    quantizer.wrap_model()
    model(X)
    assert not long_way and len(model.conv1.weight.unique()) == 3
