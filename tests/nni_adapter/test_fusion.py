"""Fusion with NNI's pruners, distillers and QATQuantizer through from_compressor, and what follows a first training."""

from __future__ import annotations

import copy

import pytest
import torch
from nni.compression.distillation import Adaptive1dLayerwiseDistiller, DynamicLayerwiseDistiller
from nni.compression.pruning import AGPPruner, LevelPruner, TaylorPruner
from nni.compression.quantization import QATQuantizer

from tests.nni_adapter.nets import Net, batches, config, make_evaluator
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import ATTQQuantizer, PTTQQuantizer, TTQQuantizer

X = batches(1)[0][0]
SPARSE = [{"op_names": ["conv2"], "sparse_ratio": 0.5}]
DISTIL = [{"op_names": ["conv2", "fc"], "target_names": ["_output_"], "lambda": 1.0, "apply_method": "mse"}]
INT8 = [{"op_names": ["conv1", "conv2"], "target_names": ["_input_", "_output_"], "quant_dtype": "int8"}]
TERNARY = config("conv1", "conv2")


def net(seed=0):
    torch.manual_seed(seed)
    return Net()


def ternary(model, quantizer_class=PTTQQuantizer, **options):
    return quantizer_class(model, TERNARY, make_evaluator(model), **options)


def outputs(model):
    training = model.training
    with torch.no_grad():
        y = model.eval()(X)
    model.train(training)
    return y


def assert_trained_and_ternary(quantizer, before, exported):
    for name, state in quantizer.states().items():
        assert not torch.equal(before[name], state.scales), f"{name}: scales did not train"
        positive, negative = state.scales.tolist()
        assert set(getattr(exported, name).weight.unique().tolist()) <= {-negative, 0.0, positive}


def scales(quantizer):
    return {name: state.scales.detach().clone() for name, state in quantizer.states().items()}


def taylor(quantizer):
    return TaylorPruner.from_compressor(quantizer, SPARSE, training_steps=2)


def agp(quantizer):
    return AGPPruner(taylor(quantizer), interval_steps=2, total_times=2)


@pytest.mark.parametrize("join", [taylor, agp])
def test_a_pruner_joins(join):
    quantizer = ternary(net())
    before = scales(quantizer)
    pruner = join(quantizer)
    model, masks = pruner.compress(None, 2)
    assert masks["conv2"]["weight"].mean() == pytest.approx(0.5, abs=0.01)
    exported = quantizer.export_model()
    assert_trained_and_ternary(quantizer, before, exported)
    pruned = masks["conv2"]["weight"] == 0
    assert (exported.conv2.weight[pruned] == 0).all() and not torch.signbit(exported.conv2.weight[pruned]).any()
    assert torch.equal(outputs(model), outputs(exported)), "the bias is masked too, and must be in the export"
    assert (exported.conv2.bias == 0).float().mean() == 0.5


def test_a_quantizer_joins_a_pruner():
    model = net()
    pruner = TaylorPruner(model, SPARSE, make_evaluator(model), training_steps=2)
    quantizer = PTTQQuantizer.from_compressor(pruner, TERNARY, t_min=0.5, t_max=0.5)
    before = scales(quantizer)
    quantizer.compress(None, 2)
    exported = quantizer.export_model()
    assert_trained_and_ternary(quantizer, before, exported)
    assert (pruner.get_masks()["conv2"]["weight"] == 0).float().mean() == pytest.approx(0.5, abs=0.01)
    assert (exported.conv2.weight[pruner.get_masks()["conv2"]["weight"] == 0] == 0).all()
    assert torch.equal(outputs(model), outputs(exported))


def test_a_level_pruner_prunes_in_a_fusion_without_agp():
    quantizer = ternary(net())
    level = LevelPruner.from_compressor(quantizer, SPARSE)
    _, masks = level.compress(None, 1)
    mask = masks["conv2"]["weight"]
    assert (mask == 0).float().mean() == pytest.approx(0.5, abs=0.01)
    assert (quantizer.export_model().conv2.weight[mask == 0] == 0).all()


@pytest.mark.parametrize("distiller_class", [DynamicLayerwiseDistiller, Adaptive1dLayerwiseDistiller])
def test_a_distiller_joins(distiller_class):
    def predict(batch, model):
        seen.append(1)
        return model(batch[0])

    seen = []
    model = net()
    teacher = copy.deepcopy(model)
    quantizer = ternary(model)
    before = scales(quantizer)
    distiller = distiller_class.from_compressor(quantizer, DISTIL, teacher_model=teacher, teacher_predict=predict)
    distiller.track_forward(X) if distiller_class is Adaptive1dLayerwiseDistiller else None
    distiller.compress(None, 2)
    assert len(seen) == 8, "the teacher is asked in each step"
    exported = quantizer.export_model()
    assert_trained_and_ternary(quantizer, before, exported)
    assert torch.equal(outputs(model), outputs(exported))


def test_distillation_changes_what_is_learned():
    def run(distil):
        model = net()
        quantizer = last = ternary(model)
        if distil:
            teacher = copy.deepcopy(net(7))
            last = DynamicLayerwiseDistiller.from_compressor(
                quantizer, DISTIL, teacher_model=teacher, teacher_predict=lambda batch, model: model(batch[0])
            )
        last.compress(None, 1)
        return scales(quantizer)["conv2"]

    assert not torch.equal(run(True), run(False))


def test_a_pruner_and_a_distiller_join():
    model = net()
    teacher = copy.deepcopy(model)
    quantizer = ternary(model)
    before = scales(quantizer)
    distiller = DynamicLayerwiseDistiller.from_compressor(
        agp(quantizer), DISTIL, teacher_model=teacher, teacher_predict=lambda batch, model: model(batch[0])
    )
    distiller.compress(None, 2)
    exported = quantizer.export_model()
    assert_trained_and_ternary(quantizer, before, exported)
    assert torch.equal(outputs(model), outputs(exported))
    assert (exported.conv2.weight == 0).float().mean() >= 0.5


@pytest.mark.parametrize("ternary_first", [True, False])
def test_int8_activations_by_qat_in_both_orders(ternary_first):
    model = net()
    if ternary_first:
        quantizer = ternary(model)
        before = scales(quantizer)
        last = QATQuantizer.from_compressor(quantizer, INT8)
    else:
        qat = QATQuantizer(model, INT8, make_evaluator(model))
        last = quantizer = PTTQQuantizer.from_compressor(qat, TERNARY)
        before = scales(quantizer)
    _, calibration = last.compress(None, 3)
    for name in ("conv1", "conv2"):
        assert calibration[name]["_input_0"]["quant_dtype"] == "int8"
        assert calibration[name]["_input_0"]["scale"] > 0 and calibration[name]["_output_0"]["scale"] > 0
        assert calibration[name]["weight"]["quant_dtype"] == "int2"
        assert calibration[name]["weight"]["scale"] == quantizer.states()[name].scales[0]
    exported = quantizer.export_model()
    assert_trained_and_ternary(quantizer, before, exported)
    assert len(outputs(model.conv1).unique()) <= 255 and len(outputs(exported.conv1).unique()) > 255


@torch.no_grad()
def test_the_export_holds_the_int8_weights_of_other_layers_and_leaves_their_statistics_alone():
    model = net()
    quantizer = ternary(model)
    int8 = [{"op_names": ["fc"], "target_names": ["weight"], "quant_dtype": "int8"}]
    qat = QATQuantizer.from_compressor(quantizer, int8)
    with torch.enable_grad():
        qat.compress(None, 1)
    space = model.fc._nni_wrapper.quantization_target_spaces["weight"]
    model.fc._nni_wrapper.weight.mul_(3)
    before = space.tracked_max.clone(), space.scale.clone()
    exported = quantizer.export_model()
    assert (space.tracked_max, space.scale) == before
    assert torch.equal(
        exported.fc.weight, (model.fc._nni_wrapper.weight / space.scale).round().clamp(-127, 127) * space.scale
    )
    assert torch.equal(outputs(model), outputs(exported))


@pytest.mark.parametrize("other", ["qat", "ternary"])
def test_the_calibration_of_a_fusion_goes_round_through_its_last_quantizer(other):
    def fusion(seed):
        first = PTTQQuantizer(model := net(seed), config("conv1"), make_evaluator(model))
        if other == "ternary":
            return first, TTQQuantizer.from_compressor(first, config("conv2"))
        last = QATQuantizer.from_compressor(first, INT8)
        last.track_forward(X)
        return first, last

    source, last = fusion(0)
    _, calibration = last.compress(None, 1)
    target, last = fusion(1)
    last.update_calibration_config(calibration)
    for key, value in target.states()["conv1"].params.items():
        assert torch.equal(value, source.states()["conv1"].params[key])
    if other == "qat":
        space = target.bound_model.conv1._nni_wrapper.quantization_target_spaces["_input_0"]
        assert space.scale == calibration["conv1"]["_input_0"]["scale"]


def test_nni_leaves_the_weight_to_the_first_of_two_quantizers():
    quantizer = ternary(net())
    everything = [{"op_names": ["conv1"], "target_names": ["_input_", "weight"], "quant_dtype": "int8"}]
    qat = QATQuantizer.from_compressor(quantizer, everything)
    assert set(qat._target_spaces["conv1"]) == {"_input_0"}
    qat.compress(None, 1)
    assert len(quantizer.export_model().conv1.weight.unique()) == 3


@pytest.mark.parametrize("first_class", [ATTQQuantizer, QATQuantizer])
def test_a_weight_that_another_quantizer_has(first_class):
    model = net()
    options = {"target_names": ["weight"], "quant_dtype": "int2"}
    first = first_class(model, [{"op_names": ["conv1"], **options}], make_evaluator(model))
    message = r"the weight of 'conv1' is already handled by another compressor \(quantization\); remove it"
    with pytest.raises(InputError, match=message):
        TTQQuantizer.from_compressor(first, TERNARY)
    assert first._is_wrapped and hasattr(model.conv1, "_nni_wrapper"), "the first one goes on as it was"
    assert not hasattr(model.conv2, "_nni_wrapper")
    first.compress(None, 1)
    second = TTQQuantizer.from_compressor(first, config("conv2"))
    second.compress(None, 1)
    assert len(second.export_model().conv2.weight.unique()) == 3


def test_a_second_compress_goes_on_with_what_was_learned():
    quantizer = ternary(net())
    quantizer.compress(None, 1)
    first = scales(quantizer)
    quantizer.compress(None, 1)
    assert not torch.equal(first["conv1"], quantizer.states()["conv1"].scales)
    groups = quantizer.evaluator._optimizer_helpers[0].kwargs
    groups = groups["params"] if "params" in groups else quantizer.evaluator._optimizer_helpers[0].args[0]
    names = [name for group in groups for name in group["params"]]
    assert len(names) == len(set(names))


def test_a_new_compressor_after_unwrap_with_the_same_evaluator():
    model = net()
    evaluator = make_evaluator(model)
    first = PTTQQuantizer(model, TERNARY, evaluator)
    first.compress(None, 1)
    first.unwrap_model()
    second = TTQQuantizer(model, config("conv2"), evaluator, lr_scale=5e-3)
    before = scales(second)
    second.compress(None, 1)
    assert_trained_and_ternary(second, before, second.export_model())
    assert len(model.conv1.weight.unique()) > 3
