"""One compression, on the real digits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ttq_plugin import trial
from ttq_plugin.cli import METHOD_NAMES
from ttq_plugin.core import METHODS
from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.nni_adapter import QUANTIZERS
from ttq_plugin.tasks.task import Split
from ttq_plugin.trial import Settings, prepare, run, score_on_test


@pytest.fixture(scope="module")
def ready(cache):
    torch.set_num_threads(1)
    return prepare("mnist-cnn", cache=cache)


def test_names_agree():
    assert tuple(METHODS) == METHOD_NAMES
    assert set(QUANTIZERS) < set(METHODS)


def test_prepared_has_a_good_model_and_no_test_split(ready):
    assert ready.mcc > 0.93
    assert not hasattr(ready, "test")
    assert [trace.name for trace in ready.traces] == ["conv1", "conv2", "fc1", "fc2"]


class Untouchable:
    """Stands where the test split would be."""

    def __getattribute__(self, name):
        raise AssertionError("the test split was looked at")


def test_preparing_and_compressing_never_look_at_the_test_split(monkeypatch, cache):
    task = trial.get_task("mnist-cnn")

    def load(source, seed):
        return replace(task.load(source, seed), test=Untouchable())

    monkeypatch.setattr(trial, "get_task", lambda name: replace(task, load=load))
    outcome = run(prepare("mnist-cnn", cache=cache), Settings("mnist-cnn", "pttq", epochs=1))
    assert outcome.metrics["mcc"] > 0.5
    with pytest.raises(AssertionError, match="looked at"):
        score_on_test("mnist-cnn", [outcome.model], seed=0)


def test_what_is_prepared_is_cached(ready, cache):
    def refuse(*_):
        raise AssertionError("trained again")

    again = prepare("mnist-cnn", cache=cache, on_epoch=refuse)
    assert again.mcc == ready.mcc and again.traces == ready.traces


@pytest.mark.parametrize("method", METHODS)
def test_a_compression_is_measured_and_leaves_the_model_alone(ready, method):
    before = {k: v.clone() for k, v in ready.model.state_dict().items()}
    outcome = run(ready, Settings("mnist-cnn", method, lr=2e-3, epochs=2, share=1.0))
    assert all(torch.equal(before[k], v) for k, v in ready.model.state_dict().items())
    assert outcome.layers == ("conv1", "conv2", "fc1", "fc2") and len(outcome.losses) == len(outcome.health) == 2
    last = {name: outcome.health[-1][f"{name}.zeros"] for name in outcome.layers}
    assert last == pytest.approx(
        {name: (getattr(outcome.model, name).weight == 0).double().mean().item() for name in outcome.layers}
    )
    zeros = sum((getattr(outcome.model, name).weight == 0).sum().item() for name in outcome.layers)
    assert outcome.metrics.get("srqw", 0.0) == pytest.approx(zeros / 9750) and (zeros == 0) == (method == "dorefa")
    # The released thresholds' drift and its scales of 1.0 are part of what it is.
    assert outcome.metrics["mcc"] > (0.0 if method == "pttq-released" else 0.75)
    for name in ("cr_gain_total", "cr_gain_quantized", "ec_gain_total", "mult_adds", "bits_entropy"):
        assert name in outcome.metrics
    [test] = score_on_test("mnist-cnn", [outcome.model], seed=0)
    assert test == pytest.approx(outcome.metrics["mcc"], abs=0.1)


def test_equal_settings_give_equal_models_whatever_the_global_generator(ready):
    settings = Settings("mnist-cnn", "pttq", lr=2e-3, epochs=1, share=0.6)
    state = torch.random.get_rng_state()
    one = run(ready, settings)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(7)
    other = run(ready, settings)
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
    different = run(ready, replace(settings, seed=1))
    assert not torch.equal(one.model.fc1.weight, different.model.fc1.weight)


def test_share_takes_the_flattest_layers(ready):
    flattest = min(ready.traces, key=lambda trace: trace.trace_per_weight)
    outcome = run(ready, Settings("mnist-cnn", "ttq", epochs=1, share=0.6))
    assert flattest.name in outcome.layers
    weights = {trace.name: trace.weights for trace in ready.traces}
    assert sum(weights[name] for name in outcome.layers) <= 0.6 * sum(weights.values())


def test_a_config_list_chooses_the_layers(ready):
    config_list = [{"op_types": ["Conv2d"]}]
    outcome = run(ready, Settings("mnist-cnn", "ttq", epochs=1), config_list=config_list)
    assert outcome.layers == ("conv1", "conv2")


def test_thresholds_that_empty_a_layer_are_clipped_and_noted(ready):
    outcome = run(ready, Settings("mnist-cnn", "pttq", t_min=6.0, t_max=6.0, epochs=1))
    assert outcome.notes and "thresholds lowered to" in outcome.notes[0]
    assert 0.9 < outcome.metrics["srqw"] < 1


def test_a_training_that_diverges_says_so(ready):
    damaged = replace(ready, train=Split(ready.train.x * 1e38, ready.train.y))
    with pytest.raises(Diverged, match="the training loss became (nan|inf) in epoch 1 of 3"):
        run(damaged, Settings("mnist-cnn", "pttq", epochs=3))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "pttq", "t": 0.1}, "pttq has no t; it takes alpha, t_max, t_min"),
        ({"method": "attq", "t_min": 1.0, "t_max": 0.0}, "t_min must not exceed t_max"),
        ({"method": "twist"}, "method must be one of"),
        ({"method": "ttq", "lr": 0.0}, "lr must be positive, got 0"),
        ({"method": "ttq", "epochs": 0}, "epochs must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        Settings("mnist-cnn", **options)


def test_a_device_that_is_not_there(cache):
    with pytest.raises(InputError, match="device 'nonsense' cannot be used here"):
        prepare("mnist-cnn", device="nonsense", cache=cache)
