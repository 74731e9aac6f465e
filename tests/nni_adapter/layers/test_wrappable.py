"""Layers beyond convolutions and linear ones: those that NNI can wrap train as by `ternarize`, the rest is said."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from tests.nni_adapter.nets import make_evaluator, make_loop
from ttq_plugin.core import bake, parameter_groups, ternarize
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PTTQPruner, PTTQQuantizer

IDS = torch.arange(24).reshape(4, 6) % 20
OPTIONS = {"t_min": 0.3, "t_max": 0.3, "on_empty": "clip"}


class Doubled(nn.Linear):
    """A user's own layer."""

    def forward(self, x):
        return 2 * super().forward(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.own = Doubled(16, 16)
        self.pair = nn.Bilinear(16, 16, 16)
        self.conv = pytest.importorskip("transformers.pytorch_utils").Conv1D(12, 16)
        self.lstm = nn.LSTM(12, 12)
        self.cell = nn.GRUCell(12, 12)
        self.attention = nn.MultiheadAttention(12, 2)
        self.norm = nn.LayerNorm(12)
        self.head, self.tied = nn.Linear(12, 5), nn.Linear(12, 5)
        self.tied.weight = self.head.weight

    def forward(self, ids):
        x = self.own(self.embed(ids))
        x, _ = self.lstm(self.conv(self.pair(x, x.flip(0))))
        x = self.norm(x + self.attention(x, x, x)[0]).mean(1)
        return self.head(self.cell(x)) + self.tied(x)


def net(seed=0):
    torch.manual_seed(seed)
    return Net()


def step(_batch, model):
    return F.cross_entropy(model(IDS), torch.arange(4))


@pytest.mark.filterwarnings("ignore:.*thresholds lowered")
@pytest.mark.parametrize("granularity", ["default", "out_channel"])
@pytest.mark.parametrize("name", ["embed", "own", "pair", "conv"])
def test_nni_trains_these_layers_as_ternarize_does(name, granularity):
    model = net()
    evaluator = make_evaluator(model, lr=0.05)
    evaluator._training_step = evaluator._ori_training_step = step
    kind = type(model.get_submodule(name)).__name__
    config = [{"op_types": [kind], "target_names": ["weight"], "granularity": granularity}]
    quantizer = PTTQQuantizer(model, config, evaluator, **OPTIONS)
    assert list(quantizer.states()) == [name]
    quantizer.compress(max_steps=3)
    exported = quantizer.export_model()

    plain = ternarize(net(), [name], granularity=granularity, **OPTIONS)
    make_loop()(plain, torch.optim.SGD(parameter_groups(plain), lr=0.05), step, max_steps=3)
    baked = bake(plain)
    assert list(exported.state_dict()) == list(baked.state_dict()) == list(net().state_dict())
    for key, value in baked.state_dict().items():
        assert torch.equal(exported.state_dict()[key], value), key
    assert not torch.equal(baked.get_submodule(name).weight, net().get_submodule(name).weight)


@pytest.mark.parametrize(
    "config, message",
    [
        (
            {"op_names": ["lstm"]},
            "selects 'lstm', of the class LSTM, which has several weight matrices that NNI",
        ),
        (
            {"op_types": ["GRUCell"]},
            "selects 'cell', of the class GRUCell, which has several .* ttq_plugin.ternarize",
        ),
        (
            {"op_types": ["Linear", "LSTM"]},
            "selects 'lstm', .*; use ttq_plugin.ternarize or ttq compress",
        ),
        ({"op_names": ["attention"]}, "selects 'attention', of the class MultiheadAttention, which has several"),
        ({"op_names": ["lstm.weight_hh_l0"]}, "names 'lstm.weight_hh_l0', one of several weight matrices of 'lstm'"),
        ({"op_names": ["lstm.weight_hh_l7"]}, "names the layer 'lstm.weight_hh_l7', which the model does not have"),
        ({"op_names": ["norm"]}, "selects 'norm', of the class LayerNorm; only convolutions, .* can be ternary"),
        (
            {"op_names": ["head"]},
            "head: its weight is shared by head.weight and tied.weight; .* takes tied weights",
        ),
    ],
)
@pytest.mark.parametrize("compressor", [PTTQQuantizer, PTTQPruner])
def test_what_nni_cannot_wrap_is_said_with_what_can(compressor, config, message):
    model = net()
    before = [type(module) for module in model.modules()]
    with pytest.raises(InputError, match=message):
        compressor(model, [config])
    assert [type(module) for module in model.modules()] == before
    assert not any(hasattr(module, "_nni_wrapper") for module in model.modules())


def spectral(model):
    nn.utils.parametrizations.spectral_norm(model.own)


def pruned(model):
    prune.l1_unstructured(model.own, "weight", 0.5)


def rescaled(model):
    model.own = nn.Embedding(4, 4, max_norm=1.0)


def sparse(model):
    model.own = nn.Embedding(4, 4, sparse=True)


@pytest.mark.parametrize(
    "change, message",
    [
        (spectral, "selects 'own', whose weight is computed from other tensors"),
        (pruned, "selects 'own', whose weight is computed from other tensors"),
        (lambda model: ternarize(model, ["own"]), "selects 'own', whose weight is computed from other tensors"),
        (rescaled, "own: max_norm would rescale ternary rows in each pass"),
        (sparse, "own: its gradients are sparse"),
    ],
)
def test_layers_in_other_hands(change, message):
    model = net()
    change(model)
    with pytest.raises(InputError, match=message):
        PTTQQuantizer(model, [{"op_names": ["own"]}])
    assert not any(hasattr(module, "_nni_wrapper") for module in model.modules())
