"""Health says what an export would write, and what is no number any more."""

from __future__ import annotations

import warnings

import pytest
import torch

from tests.nni_adapter.nets import Net, config, make_evaluator
from ttq_plugin.core import METHODS
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PTTQPruner, PTTQQuantizer, TTQQuantizer, TWNQuantizer


def made(method="pttq", granularity="default", lr=0.1, **options):
    torch.manual_seed(0)
    model = Net()
    entry = config("conv2")[0] | {"granularity": granularity}
    return PTTQQuantizer(model, [entry], make_evaluator(model, lr=lr), method=method, **options)


def assert_true(quantizer):
    (layer,) = quantizer.health().layers
    weight = quantizer.export_model().conv2.weight
    assert layer.zeros == (weight == 0).float().mean().item()
    channels = weight if quantizer.states()["conv2"].scales.dim() > 1 else [weight]
    for sign, scale in zip((1, -1), layer.scales, strict=True):
        sizes = torch.stack([(channel * sign).max() for channel in channels])
        assert scale == pytest.approx(sizes.mean().item(), rel=1e-6)


@pytest.mark.parametrize("granularity", ["default", "out_channel"])
@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("pttq-global", "pttq-released")])
def test_scales_and_zeros_are_those_of_the_export(method, granularity):
    quantizer = made(method, granularity, on_empty="clip")
    assert_true(quantizer)
    quantizer.compress(None, 2)
    assert_true(quantizer)


def test_a_pruner_that_joined_counts_in_the_zeros():
    quantizer = made(t_min=0.3, t_max=0.3)
    pruner = PTTQPruner.from_compressor(quantizer, [{"op_names": ["conv2"], "sparse_ratio": 0.7}])
    alone = quantizer.health().layers[0].zeros
    pruner.compress(None, 1)
    assert_true(quantizer)
    assert quantizer.health().layers[0].zeros > alone + 0.2
    assert pruner.health().layers[0].zeros == (pruner.get_masks()["conv2"]["weight"] == 0).float().mean().item()


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("what", ["weight", "scale", "threshold", "alpha"])
def test_what_is_no_number_is_told_and_warned_of_at_the_export(what, value):
    quantizer = made()
    wrapper = quantizer.bound_model.conv2._nni_wrapper
    tensor = (
        wrapper.weight
        if what == "weight"
        else dict(scale=wrapper.ternary.scales, threshold=wrapper.ternary.thresholds, alpha=wrapper.ternary.alpha)[what]
    )
    tensor.data.view(-1)[-1] = value
    with pytest.warns(UserWarning, match=f"conv2: a {what} is NaN or infinite, because the training diverged"):
        quantizer.export_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (layer,) = quantizer.health().layers
    assert layer.problem is not None and layer.problem.startswith(f"a {what} is NaN or infinite")


def test_a_training_that_diverges_is_told_by_every_method():
    torch.manual_seed(0)
    model = Net()
    quantizer = TWNQuantizer(model, config("conv2"), make_evaluator(model, lr=1e30))
    quantizer.compress(None, 2)
    with pytest.warns(UserWarning, match="conv2: a weight is NaN or infinite"):
        assert quantizer.health().layers[0].problem is not None


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("scale", -0.5, "conv2: calibrated scales must not be negative, got -0.5"),
        ("scale_negative", -0.5, "conv2: calibrated scales must not be negative, got -0.5"),
        ("alpha", 0.0, "conv2: calibrated alpha must be positive, got 0"),
        ("thresholds", -1.0, "conv2: calibrated t_min must not be negative, got -1"),
    ],
)
def test_calibrations_out_of_range_change_nothing(key, value, message):
    quantizer = made()
    calibration = quantizer.get_calibration_config()
    calibration["conv2"]["weight"]["thresholds"] += 0.1
    calibration["conv2"]["weight"][key] = torch.full_like(calibration["conv2"]["weight"][key], value)
    before = {k: v.clone() for k, v in quantizer.bound_model.state_dict().items()}
    with pytest.raises(InputError, match=message):
        quantizer.update_calibration_config(calibration)
    assert all(torch.equal(before[k], v) for k, v in quantizer.bound_model.state_dict().items())


def test_a_fraction_out_of_range_too():
    quantizer = TTQQuantizer(Net(), config("conv2"))
    calibration = quantizer.get_calibration_config()
    calibration["conv2"]["weight"]["thresholds"].fill_(1.5)
    with pytest.raises(InputError, match=r"conv2: calibrated t must lie in \(0, 1\), got 1.5"):
        quantizer.update_calibration_config(calibration)
