"""What a training accepted is exported, whatever else the model holds."""

from __future__ import annotations

import threading

import nni
import pytest
import torch
from nni.compression.utils import TorchEvaluator
from torch import nn

from tests.core.model.test_copying import EVERY, X, made
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
