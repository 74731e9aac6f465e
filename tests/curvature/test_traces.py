"""Traces against dense Hessians in float64, and against PyHessian's own whole-model trace."""

import functools
import math

import numpy as np
import pytest
import torch
from pyhessian import hessian
from torch import nn

from ttq_plugin.curvature import layer_traces

from .nets import (
    LAYERS,
    AttentionNet,
    ConvNet,
    InPlaceNet,
    RecurrentNet,
    SdpaNet,
    SharedNet,
    exact_traces,
    example,
    functional_trace,
    linear,
)

CE = nn.CrossEntropyLoss()
ISSUE = [linear, ConvNet, AttentionNet]
MORE = [SdpaNet, InPlaceNet, SharedNet]


@functools.cache
def estimates(make, joint, probes, seeds):
    """(seeds, layers) of traces and of standard errors, and the exact traces (layers,)."""
    model, x, y = example(make)
    runs = [layer_traces(model, CE, (x, y), max_probes=probes, joint=joint, seed=s) for s in range(seeds)]
    assert all([t.name for t in run] == LAYERS[make] for run in runs)
    exact = exact_traces(model, CE, x, y, LAYERS[make])
    traces, errors = (np.array([[getattr(t, key) for t in run] for run in runs]) for key in ("trace", "standard_error"))
    return traces, errors, np.array(list(exact.values()))


@pytest.mark.parametrize("make", [*ISSUE, *MORE])
@pytest.mark.parametrize("joint", [None, True, False])
def test_every_layer_is_within_its_standard_error(make, joint):
    """64 probes are within 4 standard errors for each of 20 seeds, and so is their mean within 4 of its own."""
    traces, errors, exact = estimates(make, joint, 64, 20)
    assert (errors > 0).all() and (errors < 2 * abs(exact)).all()
    assert (abs(traces - exact) < 4 * errors).all()
    pooled = np.sqrt((errors**2).mean(0) / 20)
    assert (abs(traces.mean(0) - exact) < 4 * pooled).all()


@pytest.mark.parametrize("joint", [None, True, False])
def test_recurrent_matrices_and_a_tied_embedding_have_traces_of_their_own(joint):
    """Likewise; some of these traces are nearly zero, where the errors cannot be."""
    traces, errors, exact = estimates(RecurrentNet, joint, 64, 20)
    assert (errors > 0).all() and (abs(traces - exact) < 4 * errors).all()
    assert (abs(traces.mean(0) - exact) < 4 * np.sqrt((errors**2).mean(0) / 20)).all()


@pytest.mark.parametrize("make", ISSUE)
@pytest.mark.parametrize("joint", [True, False])
def test_the_standard_error_is_the_spread_over_seeds(make, joint):
    """Root mean square of the reported error against the spread of 200 estimates, itself known to 5 %: within 20 %."""
    traces, errors, _ = estimates(make, joint, 8, 200)
    ratio = np.sqrt((errors**2).mean(0)) / traces.std(0, ddof=1)
    assert (abs(ratio - 1) < 0.2).all(), ratio


@pytest.mark.parametrize("make", [*ISSUE, *MORE])
def test_the_oracle_agrees_with_torch_func(make):
    """One weight at a time by double backward, against a dense Hessian by forward over reverse."""
    model, x, y = example(make)
    for name, trace in exact_traces(model, CE, x, y, LAYERS[make]).items():
        if make is SharedNet and name == "tied":
            continue  # functional_call would replace the weight of one of the two layers only
        assert trace == pytest.approx(functional_trace(model, CE, x, y, name), rel=1e-9), name


@pytest.mark.parametrize("make", ISSUE)
def test_a_product_a_layer_is_free_of_the_other_layers_noise(make):
    model, x, y = example(make)
    joint, single = (layer_traces(model, CE, [(x, y)], probes=200, joint=j) for j in (True, False))
    assert all(s.standard_error < j.standard_error for s, j in zip(single, joint, strict=True))
    alone = layer_traces(model, CE, [(x, y)], probes=50, layers=[joint[0].name], joint=True)
    both = layer_traces(model, CE, [(x, y)], probes=50, layers=[joint[0].name], joint=False)
    assert single.products == len(single)
    assert alone.layers == both.layers and alone.products == both.products == 1 == joint.products


def test_both_ways_draw_the_same_probes():
    """Without second derivatives between the layers they are the same numbers."""
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(4, 3)]).double()

    def loss(_, y):
        return sum(layer.weight.sin().sum() ** 2 for layer in model) * y

    model.forward = lambda x: x
    batches = [(torch.randn(4, 3).double(), 1.5), (torch.randn(2, 3).double(), 0.5)]
    joint, single = (layer_traces(model, loss, batches, max_probes=6, joint=j) for j in (True, False))
    for a, b in zip(joint, single, strict=True):
        assert a.standard_error > 0
        assert (a.trace, a.standard_error) == pytest.approx((b.trace, b.standard_error), rel=1e-12)


def test_diagonal_hessian_is_exact_at_once():
    """L = sum c_i w_i^2 / 2 + ..: v.Hv = sum c_i for every v, so that each probe alone is exact."""
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False)).double()
    c = torch.arange(1.0, 7.0, dtype=torch.float64).view(2, 3)

    def loss(_, y):
        return (c * model[0].weight ** 2).sum() / 2 + (model[1].weight ** 2).sum() * y

    for joint in (None, True, False):
        traces = layer_traces(model, loss, [(torch.randn(4, 3).double(), 1.5)], max_probes=2, joint=joint)
        assert [t.trace for t in traces] == [21.0, 12.0]
        assert [t.standard_error for t in traces] == [0.0, 0.0]
        assert traces["1"].trace_per_weight == 3.0 and traces[0].name == "0" and len(traces) == 2


def test_negative_traces_stay_negative():
    model = nn.Linear(3, 2, bias=False).double()
    traces = layer_traces(model, lambda o, y: -(model.weight**2).sum(), (torch.randn(4, 3).double(), None))
    assert traces[0].trace == -12.0 and traces[0].trace_per_weight == -2.0


@pytest.mark.filterwarnings("ignore:Using backward")  # PyHessian's
@pytest.mark.parametrize("joint", [None, True, False])
def test_sum_over_layers_is_pyhessians_whole_model_trace(joint):
    """A model whose parameters are all weights of layers, so that both estimate the same number."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False))
    x, y = torch.randn(20, 4), torch.randint(0, 3, (20,))
    traces = layer_traces(model, CE, [(x, y)], probes=300, joint=joint)
    samples = hessian(model, CE, data=(x, y), cuda=False).trace(maxIter=300, tol=-math.inf)  # never early
    assert len(samples) == 300
    theirs, error = np.mean(samples), np.std(samples, ddof=1) / math.sqrt(300)
    ours, ours_error = sum(t.trace for t in traces), math.hypot(*(t.standard_error for t in traces))
    assert abs(ours - theirs) < 4 * math.hypot(error, ours_error)
    assert ours_error < 0.2 * abs(ours)


def test_frozen_layers_are_skipped_and_unused_ones_named():
    model = nn.ModuleDict({n: nn.Linear(4, 3) for n in ("used", "frozen", "unused", "linear")}).double()
    model.frozen.weight.requires_grad_(False)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = model

        def forward(self, x):
            return {"logits": self.layers.used(x) + self.layers.frozen(x), "others": (self.layers.linear(x),)}

    def loss(out, y):
        return CE(out["logits"], y["class"]) + out["others"][0].mean()

    batches = [(torch.randn(5, 4).double(), {"class": torch.tensor([0, 1, 2, 0, 1])})]
    for joint in (None, True, False):
        traces = layer_traces(Net(), loss, batches, probes=4, joint=joint)
        assert [t.name for t in traces] == ["layers.used", "layers.linear"]
        assert traces.unused == ("layers.unused",)
        assert traces["layers.linear"].trace == 0 == traces["layers.linear"].standard_error
        only = layer_traces(Net(), loss, batches, probes=4, layers=["layers.used"], joint=joint)
        assert [t.name for t in only] == ["layers.used"]
        assert only.to_dict()["layers"][0]["type"] == "Linear"


LOSSES = {
    "mean square error": lambda o, y: (o.tanh() - nn.functional.one_hot(y, 3)).pow(2).mean(),
    "log-likelihood": lambda o, y: nn.functional.nll_loss(o.log_softmax(1), y),
    "class weights": nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5]).double()),
    "of shape (1,)": lambda o, y: CE(o, y).reshape(1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_any_loss(name):
    model, x, y = example(ConvNet)
    loss = LOSSES[name]
    traces = layer_traces(model, loss, (x, y), max_probes=200, joint=False)
    for layer, exact in exact_traces(model, loss, x, y, LAYERS[ConvNet]).items():
        assert abs(traces[layer].trace - exact) < 4 * traces[layer].standard_error
        assert traces[layer].standard_error < 0.3 * abs(exact)


def test_same_seed_same_result_and_another_seed_another():
    model, x, y = example(AttentionNet)
    a, b, c = (layer_traces(model, CE, [(x, y)], probes=4, seed=s) for s in (3, 3, 4))
    assert a == b and a != c


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("make", ISSUE)
@pytest.mark.parametrize("joint", [True, False])
def test_cuda_gives_the_same_numbers(make, joint):
    """The probes are drawn on the CPU, so float64 differs by rounding only."""
    model, x, y = example(make)
    here = layer_traces(model, CE, (x, y), max_probes=8, joint=joint)
    model, state = model.cuda(), torch.cuda.get_rng_state()
    there = layer_traces(model, CE, (x.cuda(), y.cuda()), max_probes=8, joint=joint)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    for a, b in zip(here, there, strict=True):
        assert (a.trace, a.standard_error) == pytest.approx((b.trace, b.standard_error), rel=1e-8)
