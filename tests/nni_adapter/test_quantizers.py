"""The quantizers in NNI's own terms: wrap, train, calibrate, export."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from nni.compression.base.compressor import Quantizer

from tests.nni_adapter.nets import Net, batches, config, make_evaluator
from ttq_plugin.core import METHODS
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import QUANTIZERS, BinaryQuantizer, PTTQQuantizer, TTQQuantizer, TWNQuantizer

ALL = pytest.mark.parametrize("quantizer_class", QUANTIZERS.values())
LEARNED = pytest.mark.parametrize("quantizer_class", [QUANTIZERS[name] for name in ("ttq", "attq", "pttq")])


def make(quantizer_class, seed=0, names=("conv1", "conv2"), log=None, **options):
    torch.manual_seed(seed)
    model = Net()
    return quantizer_class(model, config(*names), make_evaluator(model, log=log), **options)


@LEARNED
def test_is_a_quantizer_that_trains_and_exports_three_values(quantizer_class):
    quantizer = make(quantizer_class)
    assert isinstance(quantizer, Quantizer)
    latent = quantizer.bound_model.conv2._nni_wrapper.weight.clone()
    before = {name: state.scales.clone() for name, state in quantizer.states().items()}
    model, calibration = quantizer.compress(None, 3)
    assert model is quantizer.bound_model
    assert not torch.equal(latent, model.conv2._nni_wrapper.weight)
    for name, state in quantizer.states().items():
        assert not torch.equal(before[name], state.scales)
    exported = quantizer.export_model()
    for name in ("conv1", "conv2"):
        positive, negative = quantizer.states()[name].scales.tolist()
        assert set(getattr(exported, name).weight.unique().tolist()) <= {-negative, 0.0, positive}
        entry = calibration[name]["weight"]
        assert (entry["scale"].item(), entry["scale_negative"].item()) == (positive, negative)
        assert (entry["tracked_max"].item(), entry["tracked_min"].item()) == (positive, -negative)
    assert len(exported.fc.weight.unique()) > 3


@ALL
def test_the_exported_model_computes_what_the_wrapped_one_does(quantizer_class):
    quantizer = make(quantizer_class)
    model, _ = quantizer.compress(None, 2)
    exported = quantizer.export_model()
    x = batches(1)[0][0]
    with torch.no_grad():
        assert torch.equal(model.eval()(x), exported.eval()(x))


def test_exporting_leaves_the_training_as_it_was_and_training_goes_on():
    quantizer = make(PTTQQuantizer)
    quantizer.compress(None, 1)
    latent = quantizer.bound_model.conv1._nni_wrapper.weight
    value = latent.clone()
    quantizer.export_model()
    assert quantizer.bound_model.conv1._nni_wrapper.weight is latent and torch.equal(latent, value)
    quantizer.compress(None, 1)
    assert not torch.equal(latent, value)


def test_the_exported_model_is_plain():
    quantizer = make(PTTQQuantizer)
    quantizer.compress(None, 1)
    exported = quantizer.export_model()
    assert list(exported.state_dict()) == list(Net().state_dict())
    assert not any("nni" in name for name, _ in exported.named_modules())
    assert "forward" not in exported.conv1.__dict__
    assert isinstance(exported.conv1.weight, torch.nn.Parameter) and exported.conv1.weight.requires_grad
    twin = copy.deepcopy(exported)
    buffer = io.BytesIO()
    torch.save(twin.state_dict(), buffer)
    buffer.seek(0)
    fresh = Net()
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    x = batches(1)[0][0]
    assert torch.equal(fresh(x), exported(x))


def test_learning_rates_of_their_own_follow_the_schedule():
    log = []
    torch.manual_seed(0)
    model = Net()
    schedule = (torch.optim.lr_scheduler.StepLR, {"step_size": 1, "gamma": 0.1})
    evaluator = make_evaluator(model, lr=1e-2, log=log, schedule=schedule, weight_decay=0.5)
    quantizer = PTTQQuantizer(model, config("conv1"), evaluator, lr_scale=3e-3, lr_threshold=2e-4)
    quantizer.compress(None, 2)
    assert log[0] == pytest.approx([1e-2, 3e-3, 2e-4])
    assert log[1] == pytest.approx([1e-3, 3e-4, 2e-5])


def test_scales_and_thresholds_do_not_decay():
    torch.manual_seed(0)
    model = Net()
    evaluator = make_evaluator(model, lr=0.0, weight_decay=0.5)
    quantizer = PTTQQuantizer(model, config("conv1"), evaluator, lr_scale=0.0, lr_threshold=0.0)
    before = copy.deepcopy(quantizer.states()["conv1"].state_dict())
    quantizer.compress(None, 1)
    for key, value in quantizer.states()["conv1"].state_dict().items():
        assert torch.equal(value, before[key]), key


def test_without_a_rate_the_optimisers_own_is_used():
    log = []
    quantizer = make(TTQQuantizer, log=log, lr_scale=None)
    quantizer.compress(None, 1)
    assert log[0] == [1e-2, 1e-2]


def test_max_steps():
    quantizer = make(PTTQQuantizer)
    data = quantizer.bound_model.fc.weight.clone()
    quantizer.compress(1, None)
    assert not torch.equal(data, quantizer.bound_model.fc.weight)


def test_learned_values_stay_positive():
    quantizer = make(PTTQQuantizer, lr_scale=10.0, lr_threshold=10.0)
    quantizer.compress(None, 2)
    for state in quantizer.states().values():
        assert (state.scales >= 1e-8).all() and (state.thresholds >= 1e-8).all()


@LEARNED
def test_calibration_goes_round(quantizer_class):
    source = make(quantizer_class)
    _, calibration = source.compress(None, 1)
    target = make(quantizer_class, seed=1)
    assert not torch.equal(target.states()["conv1"].scales, source.states()["conv1"].scales)
    target.update_calibration_config(calibration)
    for name, state in target.states().items():
        for key, value in state.params.items():
            assert torch.equal(value, source.states()[name].params[key])
    calibration["conv1"]["weight"]["scale"].fill_(7.0)
    assert source.states()["conv1"].scales[0] != 7.0


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(other=c["conv1"]), "calibration config names the layer 'other'"),
        (
            lambda c: c["conv1"]["weight"].update(method="twn"),
            "conv1: the calibration belongs to the method 'twn', not 'pttq'",
        ),
        (lambda c: c["conv1"]["weight"].pop("scale_negative"), "conv1: calibration lacks 'scale_negative'"),
        (
            lambda c: c["conv1"]["weight"].update(thresholds=torch.ones(3)),
            r"thresholds must be finite and of shape \(2,\)",
        ),
        (lambda c: c["conv1"]["weight"].update(scale=torch.tensor(float("nan"))), "scales must be finite"),
    ],
)
def test_a_calibration_that_does_not_fit_changes_nothing(change, message):
    quantizer = make(PTTQQuantizer)
    before = quantizer.get_calibration_config()
    calibration = quantizer.get_calibration_config()
    calibration["conv2"]["weight"]["scale"].fill_(9.0)
    change(calibration)
    with pytest.raises(InputError, match=message):
        quantizer.update_calibration_config(calibration)
    after = quantizer.get_calibration_config()
    for name in ("conv1", "conv2"):
        assert torch.equal(before[name]["weight"]["scale"], after[name]["weight"]["scale"])


def test_unwrap_and_a_new_compressor():
    quantizer = make(PTTQQuantizer)
    quantizer.compress(None, 1)
    model = quantizer.bound_model
    quantizer.unwrap_model()
    other = TTQQuantizer(model, config("conv1", "fc"), make_evaluator(model))
    other.compress(None, 1)
    assert set(other.states()) == {"conv1", "fc"}


def test_two_methods_on_one_model_through_from_compressor():
    first = make(PTTQQuantizer, names=("conv1",))
    log = []
    second = TTQQuantizer.from_compressor(first, config("conv2"), t=0.1, lr_scale=5e-4)
    assert second.method.t == {"t": 0.1}
    before = {n: s.scales.clone() for q in (first, second) for n, s in q.states().items()}
    second.compress(None, 2)
    exported = second.export_model()
    for quantizer in (first, second):
        for name, state in quantizer.states().items():
            assert not torch.equal(before[name], state.scales), name
            positive, negative = state.scales.tolist()
            assert set(getattr(exported, name).weight.unique().tolist()) == {-negative, 0.0, positive}
    assert not log


def test_without_an_evaluator_the_initial_ternary_weights_are_exported():
    model = Net()
    quantizer = PTTQQuantizer(model, config("conv2"))
    exported = quantizer.export_model()
    assert len(exported.conv2.weight.unique()) == 3
    with pytest.raises(InputError, match="PTTQQuantizer has no evaluator to train with"):
        quantizer.compress(None, 1)


@pytest.mark.parametrize("quantizer_class, values", [(TWNQuantizer, 3), (BinaryQuantizer, 2)])
def test_methods_whose_scale_follows_from_the_weights(quantizer_class, values):
    quantizer = make(quantizer_class)
    assert not [name for name, _ in quantizer.bound_model.named_parameters() if "ternary" in name]
    latent = quantizer.bound_model.conv2._nni_wrapper.weight.clone()
    model, calibration = quantizer.compress(None, 2)
    assert not torch.equal(latent, model.conv2._nni_wrapper.weight)
    exported = quantizer.export_model()
    scale = calibration["conv2"]["weight"]["scale"].item()
    assert len(exported.conv2.weight.unique()) == values
    assert set(exported.conv2.weight.abs().unique().tolist()) <= {0.0, scale}


@pytest.mark.parametrize("method", [m for m in METHODS if m.startswith("pttq-")])
def test_ablations_by_name(method):
    quantizer = make(PTTQQuantizer, method=method, lr_threshold=1e-2)
    before = {name: state.thresholds.detach().clone() for name, state in quantizer.states().items()}
    quantizer.compress(None, 2)
    states = quantizer.states()
    for name, state in states.items():
        assert torch.equal(before[name], state.thresholds) == (method == "pttq-fixed")
    assert (states["conv1"].thresholds is states["conv2"].thresholds) == (method == "pttq-global")
    assert quantizer.export_model().conv1.weight.unique().numel() <= 3


def test_shared_thresholds_begin_from_the_lowest_and_learn_together():
    quantizer = make(PTTQQuantizer, method="pttq-global", t_min=2.0, t_max=2.0, on_empty="clip", lr_threshold=1e-2)
    alone = make(PTTQQuantizer, t_min=2.0, t_max=2.0, on_empty="clip")
    lowest = torch.stack([state.thresholds for state in alone.states().values()]).amin(dim=0)
    assert torch.equal(quantizer.states()["conv1"].thresholds, lowest)
    quantizer.compress(None, 1)
    exported = quantizer.export_model()
    assert exported.conv2.weight.unique().numel() <= 3
