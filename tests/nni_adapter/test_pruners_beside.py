"""NNI's pruners beside PTTQQuantizer on one layer: their sparsity stays through to the export; Slim is refused."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from nni.compression.pruning import (
    AGPPruner,
    FPGMPruner,
    L1NormPruner,
    L2NormPruner,
    LevelPruner,
    LinearPruner,
    MovementPruner,
    SlimPruner,
    TaylorPruner,
)
from nni.compression.quantization import QATQuantizer

from tests.nni_adapter.nets import make_evaluator
from tests.nni_adapter.test_fusion import SPARSE, TERNARY, X, net, outputs, ternary
from ttq_plugin import measure
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PTTQQuantizer


def trained(pruner_class, **options):
    """A pruner that makes its mask in the training, or when it begins."""
    return lambda quantizer: pruner_class.from_compressor(quantizer, SPARSE, **options)


def scheduled(scheduler_class):
    taylor = trained(TaylorPruner, training_steps=2)
    return lambda quantizer: scheduler_class(taylor(quantizer), interval_steps=2, total_times=2)


WAYS = {
    "level": trained(LevelPruner),
    "L1": trained(L1NormPruner),
    "L2": trained(L2NormPruner),
    "FPGM": trained(FPGMPruner),
    "Taylor": trained(TaylorPruner, training_steps=2),
    "movement": trained(MovementPruner, warmup_step=1, cooldown_begin_step=6),
    "AGP": scheduled(AGPPruner),
    "linear": scheduled(LinearPruner),
}


@pytest.mark.parametrize("name", WAYS)
def test_pruned_weights_stay_zero_in_the_ternary_export_and_in_the_report(name):
    plain = net()
    quantizer = ternary(copy.deepcopy(plain))
    model, masks = WAYS[name](quantizer).compress(None, 2)
    pruned = masks["conv2"]["weight"] == 0
    assert pruned.float().mean() == pytest.approx(0.5, abs=0.01)
    with warnings.catch_warnings(action="error"):
        exported = quantizer.export_model()
    weight = exported.conv2.weight
    assert (weight[pruned] == 0).all() and len(weight[~pruned].unique()) in (2, 3)
    positive, negative = quantizer.states()["conv2"].scales.tolist()
    assert set(weight.unique().tolist()) <= {-negative, 0.0, positive}
    assert torch.equal(outputs(model), outputs(exported))
    row = next(row for row in measure(plain, exported, X, quantizer.states()).selected if row.name == "conv2")
    assert row.nonzeros == int((weight != 0).sum()) <= int((~pruned).sum())


EMPTY = (
    "a sparse_ratio was set for 'conv2', but no mask was made, so nothing is pruned there: the training was shorter "
    "than the pruner's interval; train for more steps."
)


def test_a_pruner_that_never_made_its_mask_is_told_at_the_export():
    quantizer = ternary(net())
    pruner = TaylorPruner.from_compressor(quantizer, SPARSE, training_steps=1000)
    _, masks = pruner.compress(None, 1)
    assert masks["conv2"]["weight"].all()
    with pytest.warns(UserWarning) as caught:
        quantizer.export_model()
    assert [str(warning.message) for warning in caught] == [EMPTY]


def test_a_mask_that_was_there_before_the_training_stays():
    quantizer = ternary(net())
    pruner = LevelPruner.from_compressor(quantizer, SPARSE)
    shape = pruner.generate_masks()["conv2"]["weight"].shape
    mine = torch.ones(shape)
    mine[0] = 0
    pruner.update_masks({"conv2": {"weight": mine}})
    _, masks = pruner.compress(None, 1)
    assert torch.equal(masks["conv2"]["weight"], mine)


def test_a_pruner_of_another_layer_prunes_too():
    quantizer = ternary(net())
    pruner = L1NormPruner.from_compressor(quantizer, [{"op_names": ["fc"], "sparse_ratio": 0.5}])
    pruner.compress(None, 1)
    rows = (quantizer.export_model().fc.weight == 0).all(dim=1)
    assert len(rows) == 5 and rows.sum() == 2


@pytest.mark.parametrize("pruner_class", [LevelPruner, L1NormPruner, L2NormPruner, FPGMPruner])
def test_agp_around_a_pruner_makes_its_mask(pruner_class):
    quantizer = ternary(net())
    pruner = AGPPruner(pruner_class.from_compressor(quantizer, SPARSE), interval_steps=2, total_times=2)
    _, masks = pruner.compress(None, 2)
    pruned = masks["conv2"]["weight"] == 0
    assert pruned.float().mean() == pytest.approx(0.5, abs=0.01)
    with warnings.catch_warnings(action="error"):
        assert (quantizer.export_model().conv2.weight[pruned] == 0).all()


def test_a_pruner_that_a_quantizer_joins_prunes_too():
    model = net()
    quantizer = PTTQQuantizer.from_compressor(LevelPruner(model, SPARSE, make_evaluator(model)), TERNARY)
    quantizer.compress(None, 1)
    with warnings.catch_warnings(action="error"):
        assert (quantizer.export_model().conv2.weight == 0).float().mean() >= 0.49


def test_nni_alone_is_as_it_was():
    model = net()
    entry = {"op_names": ["conv1"], "target_names": ["weight"], "quant_dtype": "int8"}
    first = QATQuantizer(model, [entry], make_evaluator(model))
    _, masks = LevelPruner.from_compressor(first, SPARSE).compress(None, 1)
    assert masks["conv2"]["weight"].all()


SLIM = (
    "a ternary weight needs a pruner whose masks are zeros and ones, got SlimPruner, whose learned factors scale the "
    "weight of 'conv2'; use another pruner, such as TaylorPruner, or take the layer out of one of the two config lists."
)


def assert_untouched(model, compressor, before):
    assert compressor._is_wrapped and {k: id(p) for k, p in model.named_parameters()} == before


TYPE = [{"op_types": ["Conv2d"], "exclude_op_names": ["conv1"], "sparse_ratio": 0.5}]


@pytest.mark.parametrize("config", [SPARSE, TYPE], ids=["name", "type"])
def test_slim_s_factors_may_not_join_a_ternary_weight(config):
    model = net()
    quantizer = ternary(model)
    before = {k: id(p) for k, p in model.named_parameters()}
    with pytest.raises(InputError) as caught:
        SlimPruner.from_compressor(quantizer, config, training_steps=2)
    assert str(caught.value) == SLIM
    assert_untouched(model, quantizer, before)
    quantizer.compress(None, 1)
    assert len(quantizer.export_model().conv2.weight.unique()) == 3


def test_a_ternary_quantizer_may_not_join_slim_s_factors():
    model = net()
    pruner = SlimPruner(model, SPARSE, make_evaluator(model), training_steps=2)
    before = {k: id(p) for k, p in model.named_parameters()}
    with pytest.raises(InputError) as caught:
        PTTQQuantizer.from_compressor(pruner, TERNARY)
    assert str(caught.value) == SLIM
    assert_untouched(model, pruner, before)


def test_slim_prunes_a_layer_that_is_not_ternary():
    quantizer = ternary(net())
    pruner = SlimPruner.from_compressor(quantizer, [{"op_names": ["fc"], "sparse_ratio": 0.5}], training_steps=2)
    _, masks = pruner.compress(None, 2)
    assert (masks["fc"]["weight"] == 0).any()
    exported = quantizer.export_model()
    assert (exported.fc.weight[masks["fc"]["weight"] == 0] == 0).all()
    assert all(len(layer.weight.unique()) == 3 for layer in (exported.conv1, exported.conv2))
