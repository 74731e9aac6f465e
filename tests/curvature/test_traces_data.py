"""Batches and loaders, and how many probes: what the estimate averages over, and when it stops."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ttq_plugin.curvature import LayerTrace, Traces, layer_traces
from ttq_plugin.errors import InputError

from .nets import LAYERS, ConvNet, exact_traces, example, linear

CE = nn.CrossEntropyLoss()


def curved(model):
    """A loss with a diagonal Hessian that depends on the data: its trace is exact at once, mean(x) summed."""
    return lambda _, y: (y.mean(0) * model.weight.flatten() ** 2).sum() / 2


def test_batches_count_by_their_size():
    model = nn.Linear(3, 2, bias=False).double()
    y = torch.arange(42.0, dtype=torch.float64).view(7, 6)
    x = torch.zeros(7, 3, dtype=torch.float64)
    for sizes in ([7], [2, 5], [1, 1, 1, 4]):
        batches = zip(x.split(sizes), y.split(sizes), strict=True)
        (layer,) = layer_traces(model, curved(model), batches, max_probes=2)
        assert layer.trace == pytest.approx(y.mean(0).sum().item(), rel=1e-14)
        assert layer.standard_error < 1e-13


@pytest.mark.parametrize("joint", [True, False])
def test_batches_average_to_the_trace_of_the_whole(joint):
    model, x, y = example(ConvNet, samples=9)
    exact = exact_traces(model, CE, x, y, LAYERS[ConvNet])
    parts = layer_traces(model, CE, zip(x.split(2), y.split(2), strict=True), max_probes=200, joint=joint)
    assert parts.samples == 9
    for layer in parts:
        assert abs(layer.trace - exact[layer.name]) < 4 * layer.standard_error
        assert layer.standard_error < abs(exact[layer.name])


def test_each_batch_has_probes_of_its_own():
    """The same batch eight times over: its noise averages out like that of eight times the probes."""
    model, x, y = example(ConvNet)
    once = layer_traces(model, CE, (x, y), max_probes=200)
    eight = layer_traces(model, CE, [(x, y)] * 8, max_probes=200)
    for a, b in zip(once, eight, strict=True):
        assert b.standard_error / a.standard_error == pytest.approx(1 / math.sqrt(8), rel=0.25)


@pytest.mark.parametrize("pair", [tuple, list])
def test_one_pair_is_one_batch(pair):
    model, x, y = example(linear)
    for size in (6, 2):  # two samples look like two batches at first sight
        batch = (x[:size], y[:size])
        assert layer_traces(model, CE, pair(batch), max_probes=4) == layer_traces(model, CE, [batch], max_probes=4)


class Shuffling:
    """A loader that gives other batches each time, and counts the times."""

    def __init__(self, x, y):
        self.loader = DataLoader(
            TensorDataset(x, y), batch_size=2, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(0)
        )
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        return iter(self.loader)


def test_tol_sees_the_same_batches_in_every_round():
    """Five samples in two batches: another pass would leave out another sample."""
    model, x, y = example(linear, samples=5)
    kept = list(Shuffling(x, y))
    loader = Shuffling(x, y)
    traces = layer_traces(model, CE, loader, max_probes=48, tol=1e-9)
    assert loader.passes == 1 and traces.samples == 4
    for a, b in zip(traces, layer_traces(model, CE, kept, max_probes=48), strict=True):
        assert (a.trace, a.standard_error) == pytest.approx((b.trace, b.standard_error), rel=1e-12)


@pytest.mark.parametrize("tol", [None, 0.5])
def test_a_loader_does_not_move_the_global_random_state(tol):
    model, x, y = example(linear)
    loader = DataLoader(TensorDataset(x, y), batch_size=2, shuffle=True)
    before = torch.get_rng_state()
    layer_traces(model, CE, loader, max_probes=16, tol=tol)
    assert torch.equal(torch.get_rng_state(), before)


def test_tol_stops_early_and_agrees_with_the_same_probes():
    model, x, y = example(linear)
    batches = [(x[:3], y[:3]), (x[3:], y[3:])]
    stopped = layer_traces(model, CE, iter(batches), max_probes=400, tol=0.05, layers=["2"])
    used = stopped[0].probes
    assert 16 < used < 400 and used % 16 == 0
    assert stopped[0].relative_error < 0.05 and stopped.unsettled == () and stopped.tol == 0.05
    earlier = layer_traces(model, CE, batches, max_probes=used - 16, layers=["2"])
    assert earlier[0].relative_error >= 0.05 and earlier.unsettled == () and earlier.tol is None
    again = layer_traces(model, CE, batches, probes=used, layers=["2"])
    for a, b in zip(stopped, again, strict=True):
        assert a.trace == pytest.approx(b.trace, rel=1e-12)


def test_the_probes_run_out():
    model, x, y = example(linear)
    for limit in ({"max_probes": 20}, {"probes": 20}):
        traces = layer_traces(model, CE, (x, y), tol=1e-9, **limit)
        assert [t.probes for t in traces] == [20, 20] and traces.unsettled == ("0", "2")


def test_every_layer_must_be_settled():
    """The layer that is exact at once waits for the noisy one."""
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)]).double()
    model.forward = lambda x: x

    def loss(_, y):
        return (model[0].weight ** 2).sum() + model[1].weight.sum().sin() ** 2 * y

    traces = layer_traces(model, loss, (torch.zeros(4, 3).double(), 2.0), max_probes=4000, tol=0.1)
    assert traces[0].probes == traces[1].probes > 16
    assert traces[0].standard_error == 0 < traces[1].standard_error < 0.1 * abs(traces[1].trace)


def test_stopping_by_looking_keeps_its_promise():
    """Over 40 seeds the root mean square error is what was asked for, give or take what looking and 40 seeds do."""
    model, x, y = example(linear)
    exact = exact_traces(model, CE, x, y, ["2"])["2"]
    runs = [layer_traces(model, CE, (x, y), max_probes=999, tol=0.2, layers=["2"], seed=s)[0] for s in range(40)]
    errors = [run.trace / exact - 1 for run in runs]
    assert 0.1 < np.sqrt(np.mean(np.square(errors))) < 0.3


def test_relative_errors_at_zero():
    for trace, error, relative in ((0.0, 0.0, 0.0), (0.0, 1.0, math.inf), (-2.0, 1.0, 0.5)):
        layer = LayerTrace("a", "Linear", 4, trace, error, 8)
        assert layer.relative_error == relative
        assert Traces((layer,), tol=0.6).unsettled == (("a",) if relative > 0.6 else ())
    with pytest.raises(KeyError):
        Traces((layer,))["b"]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (lambda x, y: None, "must be a pair .*, a list of pairs or a loader, got a NoneType"),
        (lambda x, y: x, "must be a pair .*, a list of pairs or a loader, got a Tensor"),
        (lambda x, y: TensorDataset(x, y), r"got a data set \(TensorDataset\), which gives single samples: wrap"),
        (lambda x, y: DataLoader(TensorDataset(x)), "must be a pair .x, y. with a tensor x, got list as batch 0"),
        (lambda x, y: [{"x": x, "y": y}], "must be a pair .x, y. with a tensor x, got dict as batch 0"),
        (lambda x, y: [(x, y), (x[:0], y[:0])], r"at least one sample, got \(0, 4\) in batch 1"),
        (lambda x, y: [(x[0, 0], y)], r"x must have the shape \(batch, ...\) with at least one sample, got \(\)"),
        (lambda x, y: iter([]), "must hold at least one pair .*got none: pass a list or a loader"),
    ],
)
@pytest.mark.parametrize("tol", [None, 0.1])
def test_what_is_no_batch(batches, message, tol):
    model, x, y = example(linear)
    before = model.train().training
    with pytest.raises(InputError, match=message):
        layer_traces(model, CE, batches(x, y), tol=tol)
    assert model.training == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_batch_on_the_cpu_for_a_model_on_cuda():
    model, x, y = example(linear)
    with pytest.raises(InputError, match="model's device cuda:0, got x of batch 0 on cpu: move it with"):
        layer_traces(model.cuda(), CE, (x, y))
    with pytest.raises(InputError, match="model's device cuda:0, got y of batch 0 on cpu"):
        layer_traces(model, CE, (x.cuda(), y))
