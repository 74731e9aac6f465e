"""Health of a training: numbers, flips, and one warning for each layer that collapses."""

from __future__ import annotations

import warnings

import nni
import pytest
import torch
from nni.compression.utils import TorchEvaluator

from tests.nni_adapter.nets import Net, config, make_evaluator, make_loop, training_step
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import BinaryQuantizer, Health, PTTQPruner, PTTQQuantizer, TTQQuantizer, TWNQuantizer
from ttq_plugin.nni_adapter.chain import QuantizerChain
from ttq_plugin.nni_adapter.links import PlainLink


def make(**options):
    torch.manual_seed(0)
    model = Net()
    return PTTQQuantizer(model, config("conv1", "conv2"), make_evaluator(model, lr=1.0), **options)


def test_the_numbers_are_those_of_the_layers():
    quantizer = make()
    first = quantizer.health()
    assert [layer.name for layer in first.layers] == ["conv1", "conv2"] and first.step == 0
    before = quantizer.codes()
    quantizer.compress(None, 3)
    health = quantizer.health()
    assert health.step == 12
    for layer in health.layers:
        state, codes = quantizer.states()[layer.name], quantizer.codes()[layer.name]
        assert layer.zeros == pytest.approx((codes == 0).double().mean().item())
        assert layer.flips == pytest.approx((codes != before[layer.name]).double().mean().item())
        assert layer.scales == pytest.approx(tuple(state.scales.tolist()))
        assert list(layer.thresholds) == ["t_min", "t_max"]
        assert list(layer.thresholds.values()) == pytest.approx(state.thresholds.tolist())
        assert layer.problem is None
    assert any(layer.flips > 0 for layer in health.layers)
    assert quantizer.health().layers[0].flips == 0
    assert health.to_dict()["conv1.zeros"] == health.layers[0].zeros
    assert all(isinstance(v, float) for v in health.to_dict().values())


def test_the_callback_is_called_every_so_many_steps():
    seen: list[Health] = []
    make(on_health=seen.append, health_every=5).compress(None, 4)
    assert [health.step for health in seen] == [5, 10, 15]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.thresholds.fill_(50.0), "conv1: all weights are zero, because its thresholds exceed every weight"),
        (lambda s: s.thresholds[1].fill_(50.0), "conv1: no weight is positive any more: that threshold exceeds"),
        (lambda s: s.thresholds[0].fill_(50.0), "conv1: no weight is negative any more"),
        (lambda s: s.scales.fill_(1e-8), "conv1: a scale fell to zero, so that sign has no effect there; lower"),
    ],
)
def test_a_collapsed_layer_is_warned_of_once(change, message):
    quantizer = make()
    with torch.no_grad():
        change(quantizer.states()["conv1"])
    with pytest.warns(UserWarning, match=message):
        health = quantizer.health()
    assert health.layers[0].problem is not None and health.layers[1].problem is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantizer.health()


def test_pruners_and_channels_have_health_too():
    torch.manual_seed(0)
    pruner = PTTQPruner(Net(), [{"op_names": ["conv2"]}])
    assert 0 < pruner.health().layers[0].zeros < 1
    setting = {"op_names": ["conv2"], "target_names": ["weight"], "granularity": "out_channel"}
    quantizer = TTQQuantizer(Net(), [setting], on_empty="clip")
    assert 0 < quantizer.health().layers[0].zeros < 1


@pytest.mark.parametrize("every", [0, -1, 1.5, "step", None, True])
def test_an_interval_that_is_none_is_refused_before_the_training(every):
    with pytest.raises(InputError, match=r"health_every must be a whole number .*or .epoch., got"):
        make(on_health=print, health_every=every)


def test_a_callback_that_cannot_be_called_is_refused():
    with pytest.raises(InputError, match="on_health must be a function or None, got 5"):
        make(on_health=5)


@pytest.mark.parametrize(
    "quantizer_class, change, problem",
    [
        (PTTQQuantizer, lambda w: w.fill_(0.3), "all its weights have become equal, so no threshold separates them"),
        (BinaryQuantizer, lambda w: w.zero_(), "all its weights have become equal, so no threshold separates them"),
        (TWNQuantizer, lambda w: w.mul_(1e-25), "its weights have vanished"),
        (BinaryQuantizer, lambda w: w.abs_(), "no weight is negative any more, whatever its thresholds"),
        (TTQQuantizer, lambda w: w.abs_().neg_(), "no weight is positive any more, whatever its thresholds"),
    ],
)
def test_what_no_threshold_mends_is_not_blamed_on_one(quantizer_class, change, problem):
    torch.manual_seed(0)
    model = Net()
    quantizer = quantizer_class(model, config("conv1"))
    with torch.no_grad():
        change(model.conv1._nni_wrapper.weight)
    with pytest.warns(UserWarning, match=f"conv1: {problem}"):
        assert quantizer.health().layers[0].problem.startswith(problem)


def test_a_layer_that_does_not_train_is_told():
    torch.manual_seed(0)
    model = Net()
    optimizer = nni.trace(torch.optim.SGD)([*model.conv1.parameters(), *model.fc.parameters()], lr=0.1)
    evaluator = TorchEvaluator(make_loop(), optimizer, training_step)
    quantizer = PTTQQuantizer(model, config("conv1", "conv2"), evaluator)
    unheld = "its weight does not train, because no optimiser holds it; give it to one, or leave the layer out."
    assert quantizer.notes == [f"conv2: {unheld}"]
    before = model.conv2._nni_wrapper.weight.detach().clone()
    quantizer.compress(None, 1)
    assert torch.equal(model.conv2._nni_wrapper.weight, before)
    model.conv1._nni_wrapper.weight.requires_grad_(False)
    with pytest.warns(UserWarning, match="does not train"):
        problems = {layer.name: layer.problem for layer in quantizer.health().layers}
    assert problems["conv2"] == unheld and problems["conv1"].startswith("its weight is frozen (requires_grad is False)")


def test_an_attached_layer_that_does_not_train_is_told():
    model = torch.nn.Sequential(torch.nn.LSTM(4, 3), torch.nn.Linear(3, 2))
    optimizer = nni.trace(torch.optim.SGD)([*model[0].parameters()][:1] + [*model[1].parameters()], lr=0.1)
    link = PlainLink("PTTQQuantizer", [{"op_names": ["0"]}], {})
    chain = QuantizerChain(model, [link], TorchEvaluator(make_loop(), optimizer, training_step))
    assert [note.split(",")[0] for note in chain.notes] == ["0.weight_hh_l0: its weight does not train"]
    with pytest.warns(UserWarning, match="does not train"):
        problems = {layer.name: layer.problem for layer in chain.health().layers}
    assert problems["0.weight_ih_l0"] is None and problems["0.weight_hh_l0"].startswith("its weight does not train")
