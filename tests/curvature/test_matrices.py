"""Layers of several matrices and tied weights, from traces to a plan that a chain trains."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.nni_adapter.layers.test_attached import IDS, Net, evaluator, net, step
from ttq_plugin.core import bake, ternarize
from ttq_plugin.curvature import Budget, generate_config, layer_traces, select
from ttq_plugin.curvature.candidates import catalogue
from ttq_plugin.errors import InputError
from ttq_plugin.measures import measure
from ttq_plugin.measures.mult_adds import count
from ttq_plugin.nni_adapter import compress_chain

LAYERS = ("embed", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "attention.in_proj_weight", "attention.out_proj", "mix.0")


def loss(output, target):
    return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


def whole(**options):
    return generate_config(net(), loss, [(IDS, IDS)], 1.0, max_probes=2, include=["attention"], **options)


def test_a_plan_names_each_matrix_and_the_chain_trains_it():
    found = whole()
    assert tuple(found.methods) == LAYERS and set(found.layers) == set(LAYERS)
    model = net()
    done = compress_chain(model, found.chain, evaluator(model), max_epochs=1)
    assert done.layers == tuple(sorted(LAYERS))
    report = measure(net(), done.model, IDS, done.layers)
    assert {row.name for row in report.selected if row.weights} == set(LAYERS)
    assert step(None, done.model).isfinite()


def test_integers_are_offered_to_what_nni_can_wrap():
    found = whole(methods=("pttq", "int8"))
    offered = {row.layer: {option.method for option in row.options} for row in found.rows}
    assert offered == {name: {"pttq", "int8"} if name == "mix.0" else {"pttq"} for name in LAYERS} | {
        "mix.0": {"fp32", "pttq", "int8"},
        **{name: {"fp32", "pttq"} for name in LAYERS[:3]},
    }
    assert "lstm.weight_hh_l0: int8 is not a candidate, NNI's quantizers of integers cannot wrap it." in found.notes


@pytest.mark.parametrize("granularity", [None, "out_channel"])
def test_bits_and_mult_adds_of_the_whole_choice_are_the_report_s(granularity):
    plain = net().eval()
    options = {"pttq": {"t_min": 0.4, "t_max": 0.4} | ({} if granularity is None else {"granularity": granularity})}
    known = catalogue(plain, LAYERS, ("pttq",), options, "dense2", IDS)
    chosen = [row[1] for row in known.layers.values()]
    with torch.no_grad():
        assert sum(row[0].mult_adds for row in known.layers.values()) + known.mult_adds == sum(
            count(plain, IDS).values()
        )
    first = bake(
        ternarize(
            copy.deepcopy(plain), ["embed", "lstm", "attention", "mix"], granularity=granularity or "default",
            t_min=0.4, t_max=0.4, on_empty="clip",
        )
    )  # fmt: skip
    report = measure(plain, first, IDS, LAYERS)
    assert known.total_bits(chosen) == report.bits("dense2")
    assert known.mult_adds + sum(candidate.mult_adds for candidate in chosen) == report.mult_adds


def test_names_of_layers_stand_for_their_matrices():
    traces = layer_traces(net(), loss, (IDS, IDS), layers=["lstm", "head"], max_probes=2)
    assert [trace.name for trace in traces] == list(LAYERS[:3])
    assert [trace.type for trace in traces] == ["Embedding", "LSTM", "LSTM"]
    traces = layer_traces(net(), loss, (IDS, IDS), max_probes=2)
    found = select(net(), traces, 1.0, exclude=["lstm"])
    assert set(found.layers) == {"embed", "mix.0"}
    assert select(net(), traces, 1.0, keep_first=True, keep_last=True).methods["embed"] == "fp32"
    assert select(net(), traces, Budget(share=0.1), include=["lstm"]).methods["lstm.weight_hh_l0"] == "pttq"
    with pytest.raises(InputError, match="`layers` must name layers with a trainable weight, got 'gru'; the model has"):
        layer_traces(net(), loss, (IDS, IDS), layers=["gru"])


def test_the_model_is_only_read():
    model = Net().eval()
    before = {key: (value.clone(), value._version) for key, value in model.state_dict().items()}
    catalogue(model, LAYERS, ("pttq", "int8"), {}, "base3", IDS)
    assert all(torch.equal(value, before[key][0]) for key, value in model.state_dict().items())
    assert all(value._version == before[key][1] for key, value in model.state_dict().items())
