"""Networks on integers: beside float64, beside Python's integers, and what is refused."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.deploy.integer import oracle
from tests.deploy.integer.nets import NETS, Of, inputs, network
from tests.deploy.nets import trained
from ttq_plugin import InputError, integerize, save_packed
from ttq_plugin.deploy.integer import execute
from ttq_plugin.deploy.integer.floats import run
from ttq_plugin.deploy.integer.graph import build
from ttq_plugin.deploy.program.lower import trace
from ttq_plugin.tasks.metrics import METRICS
from ttq_plugin.tasks.scoring.scores import score


def check_graph(model, x):
    """On real numbers: the grids are found on the right values."""
    graph = build(trace(model, x), "model")
    with torch.no_grad():
        expected = model.double()(x.double()).flatten(1)
        found = run(graph, x, lambda key, values: None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_the_graph_computes_what_the_model_computes(name):
    check_graph(network(name), inputs(3))


@pytest.mark.parametrize("zeros", [None, 0.7])
@pytest.mark.parametrize("name", NETS)
def test_integers_are_near_the_real_numbers(name, zeros):
    """Within some steps of the result's grid, and on average within about one for each operation passed."""
    model, x = network(name, zeros), inputs(40)
    integer = integerize(model, x, calibration="percentile", percentile=100)
    with torch.no_grad():
        expected, found = model(x), integer(x)
    assert found.shape == expected.shape and found.dtype == torch.float32
    error = (found - expected).abs() / expected.std()
    assert float(error.square().mean().sqrt()) < 0.08
    assert float(error.max()) < 0.6


@pytest.mark.parametrize(
    "name", ["conv", "conv of one dimension", "grouped", "pool after a layer", "separable", "rows"]
)
def test_every_layer_computes_what_pythons_integers_give(name):
    model, x = network(name), inputs(2)
    integer = integerize(model, inputs(20))
    q = integer.quantised(x)
    layers = 0
    memory = execute.Memory(integer.program.constants, torch.int8)
    memory.start(integer.program.input, q)
    for op in integer.program.ops:
        values = execute.KINDS[op.kind](op, [memory.read(view) for view in op.inputs])
        memory.write(op.output, values)
        if op.kind == "layer":
            for sample in range(len(q)):
                held = memory.held[op.inputs[0].buffer][sample].tolist()
                assert oracle.layer(op, held) == memory.read(op.output)[sample].reshape(-1).tolist()
            layers += 1
    assert layers == sum(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Linear) for m in model.modules())


def test_chains_of_functions_are_one_table():
    """Hardswish is five operations on single numbers; ReLU6 is part of the layer."""
    graph = build(trace(network("separable"), inputs(1)), "model")
    assert [op.kind for op in graph.ops] == ["layer", "layer", "table", "layer", "mean_pool", "layer"]
    assert graph.ops[0].bounds == (0.0, 6.0)


def test_real_digits_lose_little():
    model, data = trained("mnist-cnn")
    integer = integerize(model, data.train.head(256).x)
    floats, integers = (score(m, data.validation, METRICS["accuracy"]).value for m in (model, integer))
    assert floats > 0.85 and integers > floats - 0.01


def test_the_result_has_the_models_nesting():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 6)

        def forward(self, x, *, scale):
            return {"sum": self.layer(x) + scale, "rest": (x * 2,)}

    torch.manual_seed(0)
    model = Two().eval()
    given = {"x": torch.randn(30, 4), "scale": torch.randn(30, 6)}
    integer = integerize(model, given)
    found, expected = integer(**given), model(**given)
    assert set(found) == {"sum", "rest"} and found["rest"][0].shape == (30, 4)
    torch.testing.assert_close(found["sum"], expected["sum"], atol=0.15, rtol=0)
    q = integer.quantised(given)
    assert q.dtype == torch.int8 and q.shape == (30, 10) and integer.integers(q).shape == (30, 10)


def test_integers_of_a_slice_are_those_of_the_whole():
    """A slice begins in the middle of memory; a column of a larger tensor has steps of its own."""
    integer = integerize(network("separable"), inputs(8))
    q = integer.quantised(inputs(12))
    whole = integer.integers(q)
    assert torch.equal(torch.cat([integer.integers(part) for part in q.split(5)]), whole)
    assert torch.equal(integer.integers(torch.stack([q, q], 2)[:, :, 1]), whole)
    assert torch.equal(integer.integers(q.t().contiguous().t()), whole)


def test_the_model_is_left_as_it_is():
    model = network("separable").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    integerize(model, inputs(4))
    assert model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_ranges_that_saturate_are_told_with_their_share():
    model, x = nn.Sequential(nn.Linear(4, 3)).eval(), torch.randn(4000, 4)
    with pytest.warns(UserWarning, match=r"2 of 2 tensors saturate: \d+\.\d% of the values of the (input|output)"):
        integer = integerize(model, x, calibration="percentile", percentile=90)
    assert 0.1 < integer.saturated["the input"] < 0.25
    with warnings.catch_warnings(action="error"):
        integerize(model, x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Of(lambda x: x / (1 + x[:, :1].abs())), "uses divide of two tensors, which has no integer form"),
        (
            Of(lambda x: x.masked_fill(torch.ones(4) > 0, -torch.inf).amax(1)),
            "uses a mask that no softmax follows, which has no integer form",
        ),
        (Of(lambda x: F.interpolate(x, scale_factor=2, mode="linear")), "uses linear upsampling, which has no integer"),
        (Of(lambda x: torch.maximum(x, x[:, :1])), "uses maximum of two tensors, which has no integer form"),
        (
            nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, eps=1e19)),
            "a normalisation's eps of 1e.19 is far larger than the squares of its inputs, which has no integer form",
        ),
    ],
)
def test_what_has_no_integer_form_is_named(model, message):
    with pytest.raises(InputError, match=message):
        integerize(model.eval(), torch.randn(8, 5, 4))


@pytest.mark.parametrize("batches", [[], torch.zeros(0, 4), [torch.zeros(0, 4)]])
def test_calibration_needs_samples(batches):
    with pytest.raises(InputError, match="calibration needs at least one sample, got none"):
        integerize(nn.Linear(4, 2), batches)


def test_other_bad_calibrations():
    x = torch.randn(8, 4)
    with pytest.raises(InputError, match="calibration must be one of mse, percentile, got 'best'"):
        integerize(nn.Linear(4, 2), x, calibration="best")
    with pytest.raises(InputError, match=r"percentile must lie in \(50, 100\], got 0.5"):
        integerize(nn.Linear(4, 2), x, percentile=0.5)
    with pytest.raises(InputError, match="calibration needs finite values"):
        integerize(nn.Linear(4, 2), x / 0)
    with pytest.raises(InputError, match="a sample must have 4 numbers, as in calibration, got 5"):
        integerize(nn.Linear(4, 2), x)(torch.zeros(1, 5))


def test_a_network_on_integers_is_neither_made_again_nor_saved_without_weights(tmp_path):
    integer = integerize(nn.Linear(4, 2), torch.randn(8, 4))
    with pytest.raises(InputError, match="the model is already an integer network; integerize the network"):
        integerize(integer, torch.randn(8, 4))
    with pytest.raises(
        InputError, match="IntegerModule has no weights to write; save the network that it was made from"
    ):
        save_packed(integer, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())
