"""A pruner's sparse_ratio is met, to within a weight, or refused in one sentence."""

from __future__ import annotations

import pytest
import torch

from tests.nni_adapter.nets import Net
from ttq_plugin.core import METHODS
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PTTQPruner, TTQPruner

SHIFTED = [n for n in METHODS if n not in ("pttq-global", "pttq-released", "dorefa")]


def net(mean=0.0):
    """A layer of normal weights around a mean."""
    torch.manual_seed(0)
    model = Net()
    torch.nn.init.normal_(model.conv2.weight, mean)
    return model


@pytest.mark.parametrize("granularity", ["default", "out_channel"])
@pytest.mark.parametrize("mean", [-0.5, 0.0, 0.5])
@pytest.mark.parametrize("name", SHIFTED)
def test_it_is_met_or_refused(name, mean, granularity):
    for ratio in (0.2, 0.5, 0.9):
        model = net(mean)
        config = {"op_names": ["conv2"], "sparse_ratio": ratio, "granularity": granularity}
        try:
            _, masks = PTTQPruner(model, [config], method=name).compress()
        except InputError as error:
            assert (
                name.startswith("pttq")
                and ratio < (0.5 if granularity == "default" else 0.9)
                and "because of the weights' mean" in str(error)
            )
            assert mean > 0 or granularity == "out_channel"
            continue
        zeros = int((masks["conv2"]["weight"] == 0).sum())
        assert abs(zeros - round(ratio * masks["conv2"]["weight"].numel())) <= 1
        assert not (mean > 0 and ratio < 0.3 and name.startswith("pttq") and name != "pttq-absolute")


def test_what_no_threshold_reaches_is_said():
    with pytest.raises(
        InputError, match=r"conv2: pttq cannot prune 20.0% of this layer: .* thresholds reach is [34]\d"
    ):
        PTTQPruner(net(0.5), [{"op_names": ["conv2"], "sparse_ratio": 0.2}])
    model = net()
    model.conv2.weight.data.sign_()
    with pytest.raises(InputError, match="conv2: ttq cannot prune 20.0% of this layer: .* or equal weights"):
        TTQPruner(model, [{"op_names": ["conv2"], "sparse_ratio": 0.2}])
    with pytest.raises(InputError, match="dorefa cannot prune 20.0%"):
        TTQPruner(net(), [{"op_names": ["conv2"], "sparse_ratio": 0.2}], method="dorefa")


def test_weights_that_are_pruned_already_are_part_of_it():
    model = net()
    model.conv2.weight.data.flatten()[::2] = 0
    for ratio in (0.5, 0.75):
        _, masks = TTQPruner(model, [{"op_names": ["conv2"], "sparse_ratio": ratio}]).compress()
        assert (masks["conv2"]["weight"] == 0).float().mean().item() == pytest.approx(ratio, abs=1 / 288)
        model = net()
        model.conv2.weight.data.flatten()[::2] = 0
    with pytest.raises(InputError, match="the closest share that its thresholds reach is 50.0%"):
        TTQPruner(model, [{"op_names": ["conv2"], "sparse_ratio": 0.2}])


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"sparse_threshold": 0.1}, "the ternary pruners have no setting 'sparse_threshold'"),
        ({"global_group_id": 1}, "the ternary pruners have no setting 'global_group_id'"),
        ({"sparse_ratio": "half"}, r"sparse_ratio must lie in \(0, 1\), got 'half'"),
        (
            {"sparse_ratio": 0.9, "max_sparse_ratio": 0.5},
            "between min_sparse_ratio and max_sparse_ratio, got 0.9 for 0",
        ),
    ],
)
def test_settings_that_are_not_met_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        TTQPruner(net(), [{"op_names": ["conv2"], "target_settings": {"weight": setting}}])


def test_shared_thresholds_meet_no_ratio_of_several_layers():
    config = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}]
    with pytest.raises(InputError, match="pttq-global has the same thresholds in all layers"):
        PTTQPruner(net(), config, method="pttq-global")
