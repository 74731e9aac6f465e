"""A chain takes the layers that NNI cannot wrap: the same training as by `ternarize`, beside NNI's own compressors."""

from __future__ import annotations

import nni
import pytest
import torch
import torch.nn.functional as F
from nni.compression.utils import TorchEvaluator
from torch import nn

from tests.nni_adapter.nets import make_loop
from ttq_plugin.core import bake, parameter_groups, ternarize
from ttq_plugin.curvature import Link
from ttq_plugin.errors import InputError
from ttq_plugin.measures import measure
from ttq_plugin.nni_adapter import compress_chain
from ttq_plugin.nni_adapter.chain import QuantizerChain

IDS = torch.arange(40).reshape(4, 10) % 30
EVERYTHING = ["head", "lstm", "attention", "mix.0", "gate"]
LAYERS = ("attention.in_proj_weight", "attention.out_proj", "embed", "gate", "lstm.weight_hh_l0", "lstm.weight_ih_l0")
SCHEDULE = {"max_lr": 1e-2, "total_steps": 40}


class Net(nn.Module):
    """Layers that NNI can wrap and others."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.mix = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16))
        self.gate = nn.Parameter(torch.randn(16, 16))
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x, _ = self.lstm(self.embed(ids))
        return self.head(self.mix(x + self.attention(x, x, x)[0]) @ self.gate)


def net():
    torch.manual_seed(0)
    return Net()


def step(_batch, model):
    return F.cross_entropy(model(IDS).flatten(0, 1), IDS.flatten())


def link(*names, compressor="PTTQQuantizer", options=None, **config):
    return Link(compressor, ({"op_names": list(names), "target_names": ["weight"], **config},), options or {})


def evaluator(model, schedule=None, loop=None):
    optimizer = nni.trace(torch.optim.Adam)(model.parameters(), lr=1e-3)
    scheduler = nni.trace(torch.optim.lr_scheduler.OneCycleLR)(optimizer, **SCHEDULE) if schedule else None
    return TorchEvaluator(loop or make_loop(), optimizer, step, scheduler)


def by_hand(names, granularity="default", method="pttq", **options):
    """The same by ``ternarize`` in a plain loop."""
    model = ternarize(net(), names, method, granularity=granularity, on_empty="clip", **options)
    make_loop()(model, torch.optim.Adam(parameter_groups(model), lr=1e-3), step, max_epochs=2)
    return bake(model)


@pytest.mark.filterwarnings("ignore:.*thresholds lowered")
@pytest.mark.parametrize("granularity", ["default", "out_channel"])
@pytest.mark.parametrize("names", [EVERYTHING, ["lstm"], ["lstm.weight_hh_l0", "mix.0"], ["embed", "attention"]])
def test_a_chain_trains_them_as_ternarize_does(names, granularity):
    model = net()
    options = {"t_min": 0.3, "t_max": 0.3}
    done = compress_chain(
        model, [link(*names, options=options, granularity=granularity)], evaluator(model), max_epochs=2
    )
    expected = by_hand(names, granularity, **options)
    assert list(done.model.state_dict()) == list(expected.state_dict()) == list(net().state_dict())
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(
            done.model.state_dict()[key], value, rtol=1e-6, atol=1e-7, msg=lambda m, k=key: k + m
        )
    assert done.model.head.weight is done.model.embed.weight
    assert type(done.model.lstm) is nn.LSTM and type(done.model.attention) is nn.MultiheadAttention
    report = measure(net(), done.model, IDS, done.layers)
    assert {row.name for row in report.selected if row.weights} == set(done.layers)
    if names == EVERYTHING:
        assert done.layers == tuple(sorted((*LAYERS, "mix.0")))
        stacked = "attention.in_proj_weight" + (" (key)" if granularity == "default" else "")
        assert {stacked, "mix.0", "embed"} <= done.calibration.keys()


def test_a_schedule_moves_their_rates_in_proportion():
    rates = []

    def loop(net, optimizer, *_, **__):
        rates.extend((len(group["params"]), group["max_lr"]) for group in optimizer.param_groups)

    model = net()
    chain = QuantizerChain(model, [link("lstm", "mix.0")], evaluator(model, SCHEDULE, loop))
    chain.compress(max_epochs=1)
    # All else; scales and thresholds of the LSTM's two matrices, and of the layer that NNI wraps.
    assert [rate for _, rate in rates] == [1e-2, 1e-3, 1e-4, 1e-3, 1e-4]
    assert [count for count, _ in rates][1:] == [2, 2, 1, 1]


def test_health_and_integers_beside_them():
    model = net()
    links = [link("lstm", "attention"), link("mix.0", compressor="QATQuantizer", quant_dtype="int8")]
    chain = QuantizerChain(model, links, evaluator(model))
    chain.compress(max_steps=8)
    health = chain.health()
    assert health.step == 8
    assert [layer.name for layer in health.layers] == [
        *("lstm.weight_ih_l0", "lstm.weight_hh_l0"),
        *(f"attention.in_proj_weight ({part})" for part in ("query", "key", "value")),
        "attention.out_proj",
    ]
    exported = chain.export_model()
    assert chain.widths == {"mix.0": 8}
    weights = {
        "lstm.weight_ih_l0": exported.lstm.weight_ih_l0,
        "attention.out_proj": exported.attention.out_proj.weight,
    }
    for layer in health.layers:
        if layer.name in weights:
            assert layer.zeros == pytest.approx((weights[layer.name] == 0).float().mean().item())
    assert len(exported.mix[0].weight.unique()) > 3
    chain.compress(max_steps=2)
    assert not torch.equal(chain.export_model().lstm.weight_ih_l0, exported.lstm.weight_ih_l0)


def test_two_optimisers_each_train_the_scales_of_their_layers():
    model = net()
    recurrent = set(model.lstm.parameters())
    optimizers = [
        nni.trace(torch.optim.SGD)([p for p in model.parameters() if p not in recurrent], lr=0.1),
        nni.trace(torch.optim.SGD)(list(recurrent), lr=0.1),
    ]
    sizes = []

    def loop(net, optimizers, *_, **__):
        sizes.extend([len(group["params"]) for group in optimizer.param_groups][1:] for optimizer in optimizers)

    chain = QuantizerChain(model, [link("lstm", "attention")], TorchEvaluator(loop, optimizers, step))
    chain.compress(max_epochs=1)
    assert sizes == [[4, 4], [2, 2]]  # attention's three parts and its output; the LSTM's two matrices


@pytest.mark.parametrize(
    "links, message",
    [
        (
            [link("lstm", options={"t_max": 99.0, "on_empty": "error"})],
            "lstm.weight_ih_l0: the threshold at .* leaves no",
        ),
        ([link("lstm", "mix.0", options={"slope": 3})], "pttq has no option 'slope'"),
        ([link("lstm"), link("mix.1")], "config_list selects 'mix.1', of the class LayerNorm"),
        ([link("lstm"), link("lstm.weight_hh_l0")], "lstm: already has a parametrization|already has"),
        ([link("lstm", "mix.0", options={"method": "pttq-global"})], "pttq-global .* but NNI cannot wrap 'lstm'"),
        ([link("lstm", compressor="QATQuantizer", quant_dtype="int8")], "selects 'lstm', .* NNI cannot wrap"),
    ],
)
def test_plans_that_cannot_be_leave_the_model_as_it_was(links, message):
    model = net()
    types, parameters = [type(m) for m in model.modules()], dict(model.named_parameters())
    with pytest.raises(InputError, match=message):
        QuantizerChain(model, links, evaluator(model))
    assert [type(m) for m in model.modules()] == types
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(model.get_parameter(name) is value for name, value in parameters.items())
    assert model.head.weight is model.embed.weight
    model(IDS)


def test_shared_thresholds_where_nni_wraps_none():
    model = net()
    done = compress_chain(
        model, [link("lstm", "embed", options={"method": "pttq-global"})], evaluator(model), max_epochs=2
    )
    expected = by_hand(["lstm", "embed"], method="pttq-global")
    torch.testing.assert_close(done.model.lstm.weight_hh_l0, expected.lstm.weight_hh_l0, rtol=1e-6, atol=1e-7)
    assert len({id(state.thresholds) for state in done.states.values()}) == 1


def test_a_training_that_fails_can_be_tried_again():
    model = net()

    def failing(_batch, model):
        model(IDS)
        raise ZeroDivisionError("no loss")

    optimizer = nni.trace(torch.optim.Adam)(model.parameters(), lr=1e-3)
    broken = TorchEvaluator(make_loop(), optimizer, failing)
    chain = QuantizerChain(model, [link("lstm")], broken)
    with pytest.raises(ZeroDivisionError):
        chain.compress(max_epochs=1)
    assert len(chain.export_model().lstm.weight_hh_l0.unique()) == 3
    broken._training_step = broken._ori_training_step = step
    chain.compress(max_epochs=1)
    assert chain.health().step > 0


def test_layers_that_an_entry_excludes_stay_as_they_are():
    model = net()
    entries = ({"op_names": ["lstm", "mix.0"]}, {"op_names": ["lstm"], "exclude": True})
    chain = QuantizerChain(model, [Link("PTTQQuantizer", entries, {})], evaluator(model))
    assert chain.layers == ("mix.0",) and not hasattr(model.lstm, "parametrizations")
