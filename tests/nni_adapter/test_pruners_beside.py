"""NNI's pruners, but slim, beside PTTQQuantizer on one layer: their sparsity stays through training and export."""

from __future__ import annotations

import copy

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
    TaylorPruner,
)

from tests.nni_adapter.test_fusion import SPARSE, X, net, outputs, ternary
from ttq_plugin import measure


def trained(pruner_class, **options):
    """A pruner that makes its mask in the training."""
    return lambda quantizer: pruner_class.from_compressor(quantizer, SPARSE, **options)


def at_once(pruner_class):
    """A pruner that needs no training: in a training with others, NNI never calls it, so its mask is made before."""

    def join(quantizer):
        pruner = pruner_class.from_compressor(quantizer, SPARSE)
        pruner.update_masks(pruner.generate_masks())
        return pruner

    return join


def scheduled(scheduler_class):
    taylor = trained(TaylorPruner, training_steps=2)
    return lambda quantizer: scheduler_class(taylor(quantizer), interval_steps=2, total_times=2)


WAYS = {
    "level": at_once(LevelPruner),
    "L1": at_once(L1NormPruner),
    "L2": at_once(L2NormPruner),
    "FPGM": at_once(FPGMPruner),
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
    exported = quantizer.export_model()
    weight = exported.conv2.weight
    assert (weight[pruned] == 0).all() and len(weight[~pruned].unique()) in (2, 3)
    positive, negative = quantizer.states()["conv2"].scales.tolist()
    assert set(weight.unique().tolist()) <= {-negative, 0.0, positive}
    assert torch.equal(outputs(model), outputs(exported))
    row = next(row for row in measure(plain, exported, X, quantizer.states()).selected if row.name == "conv2")
    assert row.nonzeros == int((weight != 0).sum()) <= int((~pruned).sum())
