"""Traces against dense Hessians in float64, and against PyHessian's own whole-model trace."""

import math

import numpy as np
import pytest
import torch
from pyhessian import hessian
from torch import nn

from ttq_plugin.curvature import layer_traces

from .nets import AttentionNet, ConvNet, exact_traces, example, linear

CE = nn.CrossEntropyLoss()


@pytest.mark.parametrize("make", [linear, ConvNet, AttentionNet])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("joint", [True, False])
def test_each_layer_is_within_its_standard_error(make, seed, joint):
    """The mean of 200 probes is within 4 standard errors; the seeds are fixed, so is the outcome."""
    model, x, y = example(make)
    traces = layer_traces(model, CE, [(x, y)], probes=200, seed=seed, joint=joint)
    exact = exact_traces(model, CE, x, y, [t.name for t in traces])
    assert len(traces) == {linear: 2, ConvNet: 3, AttentionNet: 4}[make]
    for t in traces:
        assert 0 < t.standard_error < abs(exact[t.name]) + 1
        assert abs(t.trace - exact[t.name]) < 4 * t.standard_error, t
        assert t.weights == model.get_submodule(t.name).weight.numel()
        assert t.trace_per_weight == t.trace / t.weights


def test_the_standard_error_is_the_spread_of_the_estimate():
    """Over 60 seeds: |error| / standard error has mean square about 1 (biased or wrongly scaled ones do not)."""
    model, x, y = example(linear)
    exact = exact_traces(model, CE, x, y, ["0", "2"])
    ratios = []
    for seed in range(60):
        traces = layer_traces(model, CE, [(x, y)], probes=40, seed=seed)
        ratios += [(t.trace - exact[t.name]) / t.standard_error for t in traces]
    assert abs(np.mean(ratios)) < 0.4
    assert 0.6 < np.mean(np.square(ratios)) < 1.6


@pytest.mark.parametrize("make", [linear, ConvNet, AttentionNet])
def test_a_product_a_layer_is_free_of_the_other_layers_noise(make):
    model, x, y = example(make)
    joint, single = (layer_traces(model, CE, [(x, y)], probes=200, joint=j) for j in (True, False))
    assert all(s.standard_error < j.standard_error for s, j in zip(single, joint, strict=True))
    alone = layer_traces(model, CE, [(x, y)], probes=50, layers=[joint[0].name])
    both = layer_traces(model, CE, [(x, y)], probes=50, layers=[joint[0].name], joint=False)
    assert alone == both


def test_exact_hessian_agrees_with_torch_functional():
    """The oracle against another oracle."""
    model, x, y = example(linear)
    first = model[0]
    f = lambda w: CE(torch.func.functional_call(model, {"0.weight": w}, (x,)), y)  # noqa: E731
    dense = torch.autograd.functional.hessian(f, first.weight.detach()).reshape(20, 20)
    assert exact_traces(model, CE, x, y, ["0"])["0"] == pytest.approx(dense.trace().item(), rel=1e-10)


def test_diagonal_hessian_is_exact_at_once():
    """L = sum c_i w_i^2 / 2 + ..: v.Hv = sum c_i for every v; only rounding is left."""
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False)).double()
    c = torch.arange(1.0, 7.0, dtype=torch.float64).view(2, 3)

    def loss(_, y):
        return (c * model[0].weight ** 2).sum() / 2 + (model[1].weight ** 2).sum() * y

    traces = layer_traces(model, loss, [(torch.randn(4, 3).double(), 1.5)], probes=2)
    assert [t.trace for t in traces] == [21.0, 12.0]
    assert [t.standard_error for t in traces] == [0.0, 0.0]
    assert traces["1"].trace_per_weight == 3.0 and traces[0].name == "0" and len(traces) == 2


def test_batches_are_averaged_by_size():
    model, x, y = example(ConvNet, samples=9)
    whole = layer_traces(model, CE, [(x, y)], probes=8)
    parts = layer_traces(model, CE, iter([(x[:2], y[:2]), (x[2:], y[2:])]), probes=8)
    assert parts.samples == whole.samples == 9
    for a, b in zip(whole, parts, strict=True):
        assert a.trace == pytest.approx(b.trace, rel=1e-9)
        assert a.standard_error == pytest.approx(b.standard_error, rel=1e-9)


@pytest.mark.filterwarnings("ignore:Using backward")  # PyHessian's
def test_sum_over_layers_is_pyhessians_whole_model_trace():
    """A model whose parameters are all weights of layers, so that both estimate the same number."""
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False))
    torch.manual_seed(0)
    x, y = torch.randn(20, 4), torch.randint(0, 3, (20,))
    traces = layer_traces(model, CE, [(x, y)], probes=300)
    samples = hessian(model, CE, data=(x, y), cuda=False).trace(maxIter=300, tol=-math.inf)  # never early
    assert len(samples) == 300
    theirs, error = np.mean(samples), np.std(samples, ddof=1) / math.sqrt(300)
    ours, ours_error = sum(t.trace for t in traces), math.hypot(*(t.standard_error for t in traces))
    assert abs(ours - theirs) < 4 * (error + ours_error)


def test_same_seed_same_result_and_another_seed_another():
    model, x, y = example(AttentionNet)
    a, b, c = (layer_traces(model, CE, [(x, y)], probes=4, seed=s) for s in (3, 3, 4))
    assert a == b and a != c


def test_tol_stops_early_and_agrees_with_the_same_probes():
    model, x, y = example(linear)
    batches = [(x[:3], y[:3]), (x[3:], y[3:])]
    stopped = layer_traces(model, CE, iter(batches), probes=400, tol=0.1, layers=["2"])
    used = stopped[0].probes
    assert 8 <= used < 400 and used % 8 == 0
    assert all(t.standard_error < 0.1 * abs(t.trace) for t in stopped)
    again = layer_traces(model, CE, batches, probes=used, layers=["2"])
    for a, b in zip(stopped, again, strict=True):
        assert a.trace == pytest.approx(b.trace, rel=1e-12)
    assert layer_traces(model, CE, batches, probes=20, tol=1e-9, layers=["2"])[0].probes == 20


def test_frozen_layers_are_skipped_and_unused_ones_named():
    model = nn.ModuleDict({n: nn.Linear(4, 3) for n in ("used", "frozen", "unused", "linear")}).double()
    model.frozen.weight.requires_grad_(False)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = model

        def forward(self, x):
            return self.layers.used(x) + self.layers.frozen(x), self.layers.linear(x)

    def loss(out, y):
        return CE(out[0], y) + out[1].mean()

    batches = [(torch.randn(5, 4).double(), torch.tensor([0, 1, 2, 0, 1]))]
    traces = layer_traces(Net(), loss, batches, probes=4)
    assert [t.name for t in traces] == ["layers.used", "layers.linear"]
    assert traces.unused == ("layers.unused",)
    assert traces["layers.linear"].trace == 0 == traces["layers.linear"].standard_error
    only = layer_traces(Net(), loss, batches, probes=4, layers=["layers.used"])
    assert [t.name for t in only] == ["layers.used"]
    assert only.to_dict()["layers"][0]["type"] == "Linear"
