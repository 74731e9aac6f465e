"""What a training accepted is exported, whatever else the model holds."""

from __future__ import annotations

import functools
import threading
import types

import nni
import pytest
import torch
from nni.compression.utils import TorchEvaluator
from torch import nn

from tests.core.model.test_copying import EVERY, X, made
from tests.nni_adapter.nets import Net, batches, config, make_evaluator
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PTTQPruner, PTTQQuantizer, QuantizerChain
from ttq_plugin.nni_adapter.chain import compress_chain

Y = torch.randint(0, 4, (8,), generator=torch.Generator().manual_seed(1))
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning", "ignore:unclosed file:ResourceWarning")


def step(batch, model):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def loop(model, optimizer, training_step, scheduler=None, max_steps=None, max_epochs=None):
    for _ in range(max_steps):
        optimizer.zero_grad()
        training_step((X, Y), model).backward()
        optimizer.step()


def evaluator(model):
    return TorchEvaluator(loop, nni.trace(torch.optim.SGD)(model.parameters(), lr=0.1), step)


@EVERY
def test_what_the_quantizer_trains_it_exports(make):
    model = made(make)
    quantizer = PTTQQuantizer(model, [{"op_names": ["a"]}], evaluator(model))
    quantizer.compress(max_steps=2)
    exported = quantizer.export_model()
    positive, negative = quantizer.states()["a"].scales.tolist()
    assert set(exported.a.weight.unique().tolist()) == {-negative, 0.0, positive}
    assert torch.equal(exported.eval()(X), model.eval()(X))
    model.train()
    quantizer.compress(max_steps=1)
    assert not torch.equal(quantizer.export_model().a.bias, exported.a.bias)


@EVERY
def test_a_joined_pruner_and_a_chain_export_too(make):
    model = made(make)
    quantizer = PTTQQuantizer(model, [{"op_names": ["a"]}], evaluator(model), t_min=0.5, t_max=0.5)
    pruner = PTTQPruner.from_compressor(quantizer, [{"op_names": ["a"]}])
    _, masks = pruner.compress(max_steps=2)
    zero = (quantizer.codes()["a"] == 0) | (masks["a"]["weight"] == 0)
    assert torch.equal(quantizer.export_model().a.weight == 0, zero) and zero.any() and not zero.all()

    class Link:
        compressor, config_list, options = "PTTQQuantizer", [{"op_names": ["a"]}], {}

    model = made(make)
    result = compress_chain(model, [Link()], evaluator(model), max_steps=2)
    assert isinstance(result.chain, QuantizerChain) and len(result.model.a.weight.unique()) == 3


def test_a_lock_that_was_there_from_the_start():
    model = made(nn.Sequential)
    model.a, model.lock = nn.Linear(16, 4), threading.Lock()
    quantizer = PTTQQuantizer(model, [{"op_names": ["a"]}], evaluator(model))
    quantizer.compress(max_steps=1)
    assert quantizer.export_model().lock is model.lock


def doubled(layer, x):
    return 2 * type(layer).forward(layer, x)


@pytest.mark.parametrize("bind", [types.MethodType, functools.partial])
def test_a_forward_that_an_instance_has_of_its_own_is_exported(bind):
    model = Net()
    model.conv2.forward = bind(doubled, model.conv2)
    quantizer = PTTQQuantizer(model, config("conv1", "conv2"), make_evaluator(model))
    quantizer.compress(None, 1)
    x = batches(1)[0][0]
    exported, expected = quantizer.export_model(), model(x)
    assert torch.equal(exported(x), expected)
    model.conv2._nni_wrapper.ternary.scales.data.mul_(2)
    assert torch.equal(exported(x), expected), "it is no part of the model that is trained on"
    quantizer.unwrap_model()
    assert "forward" in vars(model.conv2) and "forward" not in vars(model.conv1)


def test_a_forward_that_a_copy_could_not_have_is_refused():
    model = Net()
    model.conv1.forward = lambda x: 2 * torch.nn.functional.conv2d(x, model.conv1.weight, model.conv1.bias)
    with pytest.raises(InputError, match="'conv1', whose forward was replaced by a function that is not bound to the"):
        PTTQQuantizer(model, config("conv1"))
    assert not hasattr(model.conv1, "_nni_wrapper")
