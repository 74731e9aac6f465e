import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ttq_plugin.curvature import LayerTrace, generate_config, select
from ttq_plugin.errors import InputError

from .nets import AttentionNet, ConvNet, example

CE = nn.CrossEntropyLoss()


def trace(name, weights, per_weight, kind="Linear"):
    return LayerTrace(name, kind, weights, per_weight * weights, 0.1, 8)


FOUR = [trace("a", 100, 3.0), trace("b", 50, 1.0), trace("c", 400, 2.0), trace("d", 10, -1.0)]


@pytest.mark.parametrize(
    ("budget", "layers"),
    [
        (1.0, ("d", "b", "c", "a")),
        (0.9, ("d", "b", "c")),
        (0.5, ("d", "b", "a")),  # c would exceed the budget: skipped, a still fits
        (60 / 560, ("d", "b")),
        (10 / 560, ("d",)),
    ],
)
def test_flattest_first_until_the_budget(budget, layers):
    selection = select(FOUR, budget)
    assert selection.layers == layers
    assert selection.share <= budget + 1e-12
    assert [row["layer"] for row in selection.table] == ["d", "b", "c", "a"]
    assert [row["layer"] for row in selection.table if row["selected"]] == list(layers)


def test_include_and_exclude():
    assert select(FOUR, 0.5, exclude=["c"]).layers == ("d", "b")  # of 160 candidates' weights
    assert select(FOUR, 0.75, include=["c"]).layers == ("d", "c")
    assert select(FOUR, 0.2, include=["a"]).layers == ("d", "a")


def test_attention_output_only_if_included():
    layers = [*FOUR, trace("att.out_proj", 100, 0.0, "NonDynamicallyQuantizableLinear")]
    assert "att.out_proj" not in [row["layer"] for row in select(layers, 1.0).table]
    assert "att.out_proj" in select(layers, 1.0, include=["att.out_proj"]).layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0.01}, r"leave room for at least one layer, got 0.01: the smallest possible is 0.0179"),
        ({"budget": 0.5, "include": ["c"]}, r"room for the included layers, got 0.5: the smallest possible is 0.7143"),
        ({"budget": 0}, r"must lie in \(0, 1\], got 0:"),
        ({"budget": 1.01}, r"must lie in \(0, 1\], got 1.01"),
        ({"budget": float("nan")}, r"must lie in \(0, 1\], got nan"),
        ({"exclude": ["z"]}, "`exclude` must name candidate layers, got 'z'; they are a, b, c, d"),
        ({"include": ["z"]}, "`include` must name candidate layers, got 'z'"),
        ({"include": ["a"], "exclude": ["a"]}, "got 'a' in both: drop one"),
        ({"exclude": ["a", "b", "c", "d"]}, "At least one candidate layer is needed, got none"),
    ],
)
def test_wrong_questions(options, message):
    with pytest.raises(InputError, match=message):
        select(FOUR, **options)


layer_lists = st.lists(st.tuples(st.integers(1, 1000), st.floats(-5, 5)), min_size=1, max_size=12)


@given(layer_lists, st.floats(0.001, 1))
def test_the_budget_is_never_exceeded_and_what_fits_is_taken(layers, budget):
    traces = [trace(str(i), n, t) for i, (n, t) in enumerate(layers)]
    total = sum(n for n, _ in layers)
    try:
        selection = select(traces, budget)
    except InputError:
        assert min(n for n, _ in layers) > budget * total
        return
    taken = sum(row.weights for row in selection.rows if row.selected)
    assert taken <= budget * total * (1 + 1e-9)
    assert all(taken + row.weights > budget * total for row in selection.rows if not row.selected)


def test_from_a_model_and_again_without_it():
    model, x, y = example(ConvNet)
    selection = generate_config(model, CE, [(x, y)], probes=8)
    assert set(selection.table[0]) == {
        "layer", "type", "weights", "trace", "standard_error", "trace_per_weight", "selected"
    }  # fmt: skip
    again = generate_config(None, None, None, 0.3, traces=selection.traces)
    assert again.table == select(selection.traces, 0.3).table
    assert again.share <= 0.3
    assert json.loads(json.dumps(selection.to_dict(), allow_nan=False))["layers"] == list(selection.layers)
    assert "* selected" in str(selection) and "conv" in str(selection)


def test_a_wrong_question_is_answered_before_the_work():
    model, x, y = example(ConvNet)

    def loss(*_):
        raise AssertionError("called")

    with pytest.raises(InputError, match="`budget`"):
        generate_config(model, loss, [(x, y)], 2)
    with pytest.raises(InputError, match="`exclude` must name candidate layers, got 'norm'; they are conv, up, fc"):
        generate_config(model, loss, [(x, y)], exclude=["norm"])


@pytest.mark.parametrize("make", [ConvNet, AttentionNet])
def test_nni_accepts_the_config_list(make):
    config = pytest.importorskip("nni.compression.base.config")
    model, x, y = example(make)
    selection = generate_config(model, CE, [(x, y)], probes=4)
    assert selection.config_list == [
        {"op_names": list(selection.layers), "target_names": ["weight"], "quant_dtype": "int2"}
    ]
    schema = config.default_config_schema("quantization")
    for entry in selection.config_list:
        schema.validate(entry)
    names = dict(model.named_modules())
    assert all(isinstance(names[n], (nn.Linear, nn.Conv1d, nn.ConvTranspose1d)) for n in selection.layers)


def test_ties_keep_the_models_order():
    same = [trace(n, 10, 1.0) for n in "xyz"]
    assert select(same, 0.7).layers == ("x", "y")
    assert torch.is_grad_enabled()
