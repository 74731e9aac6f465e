"""Health of a training: numbers, flips, and one warning for each layer that collapses."""

from __future__ import annotations

import warnings

import pytest
import torch

from tests.nni_adapter.nets import Net, config, make_evaluator
from ttq_plugin.nni_adapter import Health, PTTQPruner, PTTQQuantizer, TTQQuantizer


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
        (lambda s: s.thresholds.fill_(50.0), "conv1: all weights are zero, its thresholds lie beyond every weight"),
        (lambda s: s.thresholds[1].fill_(50.0), "conv1: no weight is positive any more, that threshold lies beyond"),
        (lambda s: s.thresholds[0].fill_(50.0), "conv1: no weight is negative any more"),
        (lambda s: s.scales.fill_(1e-8), "conv1: a scale fell to zero, so that sign does nothing there; lower"),
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
