"""A module with two names is one layer by either of them, and a name that means nothing is an error."""

from __future__ import annotations

import nni
import pytest
import torch
from nni.compression.utils import TorchEvaluator
from torch import nn

from tests.nni_adapter.nets import Net, config, make_evaluator
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PTTQPruner, PTTQQuantizer, TTQQuantizer
from ttq_plugin.nni_adapter.chain import compress_chain

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


class Shared(nn.Module):
    """One linear layer and one norm under two names each, used twice a pass."""

    def __init__(self):
        super().__init__()
        self.a = self.b = nn.Linear(6, 6)
        self.norm1 = self.norm2 = nn.BatchNorm1d(6)
        self.c = nn.Linear(6, 3)

    def forward(self, x):
        return self.c(self.norm2(self.b(self.norm1(self.a(x)).relu())))


class Tied(nn.Module):
    """A block under two names."""

    def __init__(self):
        super().__init__()
        block = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        self.first, self.second, self.c = block, block, nn.Linear(6, 3)

    def forward(self, x):
        return self.c(self.second(self.first(x)))


def step(batch, model):
    return model(batch).square().mean()


def loop(model, optimizer, training_step, scheduler=None, max_steps=None, max_epochs=None):
    for _ in range(max_steps):
        optimizer.zero_grad()
        training_step(X, model).backward()
        optimizer.step()


def evaluator(model):
    return TorchEvaluator(loop, nni.trace(torch.optim.SGD)(model.parameters(), lr=0.1), step)


def made(cls=Shared):
    torch.manual_seed(0)
    return cls()


ENTRIES = [
    {"op_names": ["b"]},
    {"op_names": ["a", "b"]},
    {"op_types": ["Linear"], "exclude_op_names": ["c"]},
    {"op_names_re": ["[ab]"]},
    {"op_names_re": ["b$"]},
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_either_name_trains_the_same_layer(entry):
    def trained(entry):
        model = made()
        quantizer = PTTQQuantizer(model, [entry], evaluator(model), lr_scale=0.1)
        scales = quantizer.states()["a"].scales.detach().clone()
        quantizer.compress(max_steps=3)
        assert not torch.equal(scales, quantizer.states()["a"].scales)
        exported = quantizer.export_model()
        assert exported.a is exported.b and len(exported.a.weight.unique()) == 3
        assert torch.equal(exported.eval()(X), model.eval()(X))
        return exported

    expected = trained({"op_names": ["a"]}).state_dict()
    got = trained(entry).state_dict()
    assert list(got) == list(expected) and all(torch.equal(got[k], expected[k]) for k in got)


def test_layers_inside_a_block_with_two_names():
    model = made(Tied)
    quantizer = TTQQuantizer(model, [{"op_names": ["second.0"]}], evaluator(model))
    quantizer.compress(max_steps=2)
    exported = quantizer.export_model()
    assert exported.first[0] is exported.second[0] and len(exported.first[0].weight.unique()) == 3
    assert list(quantizer.states()) == ["first.0"]


def test_a_pruner_and_a_joining_quantizer_know_both_names():
    model = made()
    pruner = PTTQPruner(model, [{"op_names": ["b"]}], evaluator(model))
    _, masks = pruner.compress()
    assert (model.a._nni_wrapper.pruning_target_spaces["weight"].mask == masks["a"]["weight"]).all()
    quantizer = TTQQuantizer.from_compressor(pruner, [{"op_names": ["b"]}])
    quantizer.compress(max_steps=1)
    assert ((quantizer.export_model().b.weight == 0) >= (masks["a"]["weight"] == 0)).float().mean() > 0.5
    calibration = quantizer.get_calibration_config()
    calibration["b"] = calibration.pop("a")
    calibration["b"]["weight"]["scale"] = torch.tensor(0.25)
    quantizer.update_calibration_config(calibration)
    assert quantizer.states()["a"].scales[0] == 0.25


@pytest.mark.parametrize("norm", ["norm1", "norm2"])
def test_a_norm_with_two_names_is_folded_everywhere(norm):
    class Folds(Shared):
        def forward(self, x):
            return self.c(self.norm2(self.b(x)))

    model = made(Folds)
    quantizer = PTTQQuantizer(model, [{"op_names": ["b"], "fuse_names": [("b", norm)]}], evaluator(model))
    quantizer.compress(max_steps=1)
    exported = quantizer.export_model()
    assert isinstance(exported.norm1, nn.Identity) and isinstance(exported.norm2, nn.Identity)
    torch.testing.assert_close(exported.eval()(X), model.eval()(X))


def test_integers_of_a_chain_too():
    class Link:
        compressor, config_list, options = "QATQuantizer", [{"op_types": ["Linear"], "quant_dtype": "int8"}], {}

    model = made()
    result = compress_chain(model, [Link()], evaluator(model), max_steps=2)
    assert result.layers == ("a", "c") and result.model.a is result.model.b


WRONG = [
    (
        {"op_types": ["Conv2d"], "exclude_op_names": ["clasifier"]},
        "names the layer 'clasifier', which the model does not",
    ),
    ({"op_types": ["Conv2d", "Linaer"]}, "asks for layers of the type 'Linaer', which neither the model nor torch.nn"),
    ({"op_types": ["Conv2d"], "exclude_op_types": ["Conv2D"]}, "asks for layers of the type 'Conv2D'"),
    (
        {"op_types": ["Conv2d"], "exclude_op_names_re": ["clasifier.*"]},
        r"the pattern 'clasifier\.\*', which matches no",
    ),
    ({"op_names": ["conv1"], "op_names_re": ["cnv.*"]}, r"the pattern 'cnv\.\*', which matches no layer"),
    ({"op_names_re": ["conv("]}, "which is not a regular expression"),
]


@pytest.mark.parametrize("entry, message", WRONG)
@pytest.mark.parametrize("compressor", [PTTQQuantizer, PTTQPruner])
def test_names_that_mean_nothing(compressor, entry, message):
    model = Net()
    with pytest.raises(InputError, match=message):
        compressor(model, [entry], make_evaluator(model))
    assert not any(hasattr(m, "_nni_wrapper") for m in model.modules())


def test_types_and_patterns_that_mean_something_else_may_stay():
    entry = {"op_types": ["Conv2d", "Conv3d"], "exclude_op_types": ["BatchNorm2d"], "exclude_op_names_re": ["relu"]}
    assert list(PTTQQuantizer(Net(), [entry]).states()) == ["conv1", "conv2"]
    assert list(PTTQQuantizer(Net(), config("conv2", "conv1")).states()) == ["conv1", "conv2"]
