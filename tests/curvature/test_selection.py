"""What is chosen by share, the rules, and how the answer reads."""

import json
import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from ttq_plugin.curvature import Budget, LayerTrace, Traces, generate_config, select
from ttq_plugin.errors import InputError

from .nets import AttentionNet, ConvNet, example

CE = nn.CrossEntropyLoss()


def network(layers):
    """A model of layers without bias whose weights are alike, and traces: name -> (weights, trace / weight)."""
    torch.manual_seed(0)
    model = nn.ModuleDict({name: nn.Linear(n, 1, bias=False) for name, (n, _) in layers.items()})
    for module in model.values():
        with torch.no_grad():  # the same distance a weight in every layer: only the traces differ
            module.weight.copy_(torch.tensor([1.0, -1.0, 0.1, -0.2, 0.3]).repeat(module.in_features // 5))
    return model, [LayerTrace(name, "Linear", n, t * n, 0.1, 8) for name, (n, t) in layers.items()]


FOUR = {"a": (100, 3.0), "b": (50, 1.0), "c": (400, 2.0), "d": (10, -1.0)}


@pytest.mark.parametrize(
    ("budget", "layers"),
    [
        (1.0, ("d", "b", "c", "a")),
        (0.9, ("d", "c", "a")),  # 510 of 560 weights: less curved than with b instead of d, and as d is free
        (0.82, ("d", "b", "c")),  # 460 of 560, exactly as much as is asked for
        (0.72, ("d", "c")),
        (60 / 560, ("d", "b")),
        (10 / 560, ("d",)),
        (1e-9, ("d",)),
    ],
)
def test_the_least_sensitive_layers_of_at_least_this_share(budget, layers):
    selection = select(*network(FOUR), budget)
    assert selection.layers == layers
    assert selection.share >= budget - 1e-12
    assert [row["layer"] for row in selection.table] == ["d", "b", "c", "a"]
    assert [row["layer"] for row in selection.table if row["selected"]] == list(layers)
    assert selection.gap == 0


def test_include_and_exclude():
    model, traces = network(FOUR)
    assert select(model, traces, 0.5, exclude=["c"]).layers == ("d", "a")  # of 160 candidates' weights
    assert select(model, traces, 0.05, include=["c"]).layers == ("d", "c")
    assert select(model, traces, 0.2, include=["a"]).layers == ("d", "b", "a")
    chosen = select(model, traces, 0.05, include=["c"], methods=("int8", "pttq"))
    assert chosen.methods["c"] == "int8"
    assert select(model, traces, 0.5, exclude=["c"]).methods["c"] == "fp32"


def test_first_and_last_layer_stay():
    model, traces = network(FOUR)
    assert select(model, traces, 1.0, keep_first=True).layers == ("d", "b", "c")
    assert select(model, traces, 1.0, keep_last=True).layers == ("b", "c", "a")
    ends = select(model, traces, 1.0, keep_first=True, keep_last=True, exclude=["a"])
    assert ends.layers == ("b", "c") and ends.share == 1
    model.a.weight.requires_grad_(False)  # the first layer is the model's, with or without a trace
    assert select(model, traces[1:], 1.0, keep_first=True).layers == ("d", "b", "c")


def test_attention_output_only_if_included():
    model, x, y = example(AttentionNet)
    found = generate_config(model, CE, [(x, y)], 1.0, max_probes=2)
    for name in ("encoder.self_attn.out_proj", "encoder.self_attn.in_proj_weight"):
        assert name not in [row.layer for row in found.rows] and found.methods[name] == "fp32"
        assert f"{name}: stays in full precision, like all of nn.MultiheadAttention that" in str(found.notes)
        included = select(model, found.traces, 1.0, include=[name])
        assert name in included.layers and f"{name}: stays" not in str(included.notes)
    both = select(model, found.traces, 1.0, include=["encoder.self_attn"])
    assert {"encoder.self_attn.out_proj", "encoder.self_attn.in_proj_weight"} <= set(both.layers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude": ["z"]}, "`exclude` must name candidate layers, got 'z'; they are a, b, c, d"),
        ({"include": ["z"]}, "`include` must name candidate layers, got 'z'"),
        ({"include": ["a"], "exclude": ["a"]}, "in `exclude` or in `include`, got 'a' in both: drop one"),
        ({"include": ["a"], "keep_first": True}, "in `keep_first` or in `include`, got 'a' in both"),
        ({"include": ["d"], "keep_last": True}, "in `keep_last` or in `include`, got 'd' in both"),
        ({"exclude": ["a", "b", "c", "d"]}, "At least one candidate layer is needed, got none"),
        ({"methods": ["ptq"]}, "`methods` must name some of fp32, int8, int4, twn, .*, got 'ptq'"),
        ({"methods": []}, "`methods` must name at least one that quantises, among int8, .*; got none"),
        ({"methods": ["fp32"]}, "`methods` must name at least one that quantises"),
        ({"options": {"ttq": {"t": 0.1}}}, "`options` must belong to one of the methods pttq, got 'ttq'"),
        ({"options": {"pttq": {"t": 0.1}}}, "pttq has no option 't'; it takes t_min, t_max"),
        ({"options": {"pttq": {"t_min": -1}}}, "t_min must not be negative, got -1"),
        ({"options": {"pttq": {"granularity": "row"}}}, "granularity must be default or out_channel"),
        ({"methods": ["int8"], "options": {"int8": {"bits": 8}}}, "int8 takes no options"),
        ({"scheme": "zip"}, "`scheme` must be one of coo34, dense2, base3, entropy, got 'zip'"),
        ({"traces": [LayerTrace("e", "Linear", 5, 1, 1, 2)]}, "of this model, got 5 weights in 'e'; .* no such layer"),
        ({"traces": [LayerTrace("a", "Linear", 5, 1, 1, 2)]}, "got 5 weights in 'a'; the model has 100 there"),
        ({"traces": []}, "At least one candidate layer is needed"),
    ],
)
def test_wrong_questions(options, message):
    model, traces = network(FOUR)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=message):
        select(model, **{"traces": traces, "budget": 0.9} | options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


layer_lists = st.lists(st.tuples(st.sampled_from([5, 10, 35, 100, 1000]), st.floats(-5, 5)), min_size=1, max_size=12)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(layer_lists, st.floats(0.001, 1))
@hypothesis.example([(5, 0.0), (35, 5e-324)], 0.125)
def test_the_share_is_met_and_nothing_could_be_left_out(layers, budget):
    model, traces = network({str(i): layer for i, layer in enumerate(layers)})
    selection = select(model, traces, budget)
    total = sum(n for n, _ in layers)
    taken = sum(row.weights for row in selection.rows if row.selected)
    assert taken >= budget * total * (1 - 1e-9)
    for row in selection.rows:
        # What is next to nothing counts as nothing: beside the rest, or altogether.
        if row.selected and row.chosen.sensitivity > max(1e-8 * selection.sensitivity, 1e-290):
            assert taken - row.weights < budget * total, "a curved layer is there without need"


def test_negative_traces_cost_nothing_and_stay_negative_in_the_table():
    model, traces = network(FOUR)
    selection = select(model, traces, 0.01)
    assert selection.layers == ("d",) and selection.sensitivity == 0
    row = selection.rows[0]
    assert row.trace == -10 and row.chosen.sensitivity < 0 < row.chosen.standard_error
    assert selection.sensitivity_error == row.chosen.standard_error
    assert selection.notes == (
        "d: its trace is negative, -10 +- 0.1 (the weights are not at a minimum of the loss), so its "
        "sensitivity counts as 0.",
    )
    assert "pttq (negative)" in str(selection)


def test_a_layer_that_the_loss_does_not_need_stays():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.used(x)

    model, x, y = Net(), torch.randn(8, 4), torch.randint(0, 3, (8,))
    selection = generate_config(model, CE, [(x, y)], 1.0, max_probes=4)
    assert selection.layers == ("used",) and selection.share == 1
    assert "unused: stays in full precision, because the loss does not depend on it." in selection.notes
    with pytest.raises(InputError, match="must have a trace, 'unused' has none: the loss does not depend on it"):
        generate_config(model, CE, [(x, y)], 1.0, include=["unused"], max_probes=4)


def test_traces_that_did_not_settle_are_told():
    model, traces = network(FOUR)
    selection = select(model, Traces(tuple(traces), tol=0.005), 0.9)
    assert "d: the largest number of probes was reached before the trace was known to within `tol`." in selection.notes
    assert not any("ran out" in note for note in select(model, Traces(tuple(traces), tol=0.5), 0.9).notes)


def test_from_a_model_and_again_without_it():
    model, x, y = example(ConvNet)
    selection = generate_config(model, CE, [(x, y)], probes=8)
    assert {layer.probes for layer in selection.traces} == {8}
    assert set(selection.table[0]) == {
        "layer", "type", "weights", "trace", "standard_error", "trace_per_weight", "selected", "method", "options"
    }  # fmt: skip
    again = generate_config(model, None, None, 0.3, traces=selection.traces)
    assert again == select(model, selection.traces, 0.3)
    assert again.share >= 0.3
    read = json.loads(json.dumps(selection.to_dict(), allow_nan=False))
    assert read["layers"] == list(selection.layers) and read["budget"] == {"share": 0.9}
    assert read["traces"][0]["name"] == "conv" and read["gap"] == 0
    text = str(selection)
    for part in ("selected: ", "conv", "Omega pttq", "proved optimal", "at least 90 % of the weights", "base3"):
        assert part in text


def test_a_wrong_question_is_answered_before_the_work():
    model, x, y = example(ConvNet)

    def loss(*_):
        raise AssertionError("called")

    with pytest.raises(InputError, match="`budget`"):
        generate_config(model, loss, [(x, y)], 2)
    with pytest.raises(InputError, match="`exclude` must name candidate layers, got 'norm'; they are conv, up, fc"):
        generate_config(model, loss, [(x, y)], exclude=["norm"])
    with pytest.raises(InputError, match="`methods`"):
        generate_config(model, loss, [(x, y)], methods=("tqq",))


def test_ties_are_broken_by_bits():
    """Three layers as curved as each other and a fourth that needs fewer bits for the same sensitivity: zero."""
    model, traces = network({"x": (10, 0.0), "y": (100, 0.0), "z": (35, 0.0)})
    assert set(select(model, traces, 0.05).layers) == {"x", "y", "z"}, "bits are saved where that costs nothing"
    assert select(model, traces, 0.05, methods=("int8", "dorefa")).methods == dict.fromkeys("xyz", "dorefa")
    smallest = select(model, traces, Budget(sensitivity=0))
    assert math.isclose(smallest.bits, sum(8 * math.ceil(n / 5) + 64 for n in (100, 35)) + 8 * 2 + 64)
