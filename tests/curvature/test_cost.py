"""Blocks of layers with scaled vectors: unbiased, quiet, as many as fit into eight training steps, and said before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ttq_plugin.curvature import generate_config, layer_traces
from ttq_plugin.curvature.layers import candidate_layers
from ttq_plugin.curvature.probing import cost
from ttq_plugin.curvature.probing.gradients import loss_gradients, twice_differentiable
from ttq_plugin.curvature.probing.probes import Probes, cut
from ttq_plugin.curvature.probing.work import work

from .nets import LAYERS, AttentionNet, ConvNet, exact_traces, example, linear

CE = nn.CrossEntropyLoss()
SEEDS = 30


def estimates(make, probes=16, **options):
    """(seeds, layers): traces and standard errors; the work of one call, and the products of its probes."""
    model, x, y = example(make)
    runs = [layer_traces(model, CE, (x, y), max_probes=probes, seed=s, **options) for s in range(SEEDS)]
    taken = work(lambda: layer_traces(model, CE, (x, y), max_probes=probes, **options))
    values = [np.array([[getattr(t, key) for t in run] for run in runs]) for key in ("trace", "standard_error")]
    return *values, taken, runs[0].products


@pytest.mark.parametrize("make", [AttentionNet, ConvNet])
def test_at_equal_work_the_squared_error_is_at_most_twice_that_of_the_better_way(make):
    """Against the exact traces, over many seeds, geometric mean of the layers, looks at the first batch included."""
    model, x, y = example(make)
    exact = np.array(list(exact_traces(model, CE, x, y, LAYERS[make]).values()))
    price = {}
    for joint in (None, True, False):
        traces, _, taken, _ = estimates(make, joint=joint)
        price[joint] = ((traces - exact) ** 2).mean(0) * taken
    for joint in (True, False):
        assert np.exp(np.log(price[None] / price[joint]).mean()) < 2


@pytest.mark.parametrize("make", [AttentionNet, ConvNet])
def test_blocks_with_scales_are_unbiased_and_their_standard_error_is_the_spread(monkeypatch, make):
    model, x, y = example(make)
    exact = np.array(list(exact_traces(model, CE, x, y, LAYERS[make]).values()))
    monkeypatch.setattr(cost, "OF_PRODUCTS", 3.0)
    traces, errors, _, products = estimates(make)
    assert products < len(exact), "or it is a product a layer"
    assert (abs(traces.mean(0) - exact) < 4 * np.sqrt((errors**2).mean(0) / SEEDS)).all()
    ratio = np.sqrt((errors**2).mean(0)) / traces.std(0, ddof=1)
    assert (abs(ratio - 1) < 0.35).all()


def test_scales_keep_flat_layers_out_of_the_noise_of_steep_ones():
    """Layers as steep as 1 to 1e-6, whose blocks of the Hessian are of rank one: one product over all of them."""
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(8, 1, bias=False) for _ in range(4)]).double()
    features = torch.randn(4, 64, 8, dtype=torch.float64)

    def loss(*_):
        slopes = (1.0, 1e-1, 1e-2, 1e-3)
        return sum(c * f @ layer.weight[0] for c, f, layer in zip(slopes, features, model, strict=True)).pow(2).mean()

    weights = [matrix.parameter for matrix in candidate_layers(model).values()]
    generator = torch.Generator().manual_seed(0)
    model.forward = lambda x: x
    with twice_differentiable(model, weights[0].device):
        gradients = loss_gradients(model, loss, features, None, weights, 0)
        plain = Probes.of(weights, 1)
        scaled = plain.look(gradients, generator)
        ours, joint = (
            torch.stack([p.sample(gradients, generator) for _ in range(200)]).std(0) for p in (scaled, plain)
        )
    exact = torch.tensor(
        [2 * c**2 * f.pow(2).mean(0).sum() for c, f in zip((1.0, 1e-1, 1e-2, 1e-3), features, strict=True)]
    )
    assert (ours < exact).all(), "each layer's noise is no more than its trace"
    assert joint[3] > 100 * exact[3], "which drowns without the scales"


def test_layers_that_fit_get_a_product_each_and_many_layers_do_not():
    few, x, y = example(linear)
    assert layer_traces(few, CE, (x, y), max_probes=2).products == 2
    many = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(40))).double()
    assert 1 < layer_traces(many, CE, (x, y), max_probes=2).products < 40


def test_blocks_are_equal_and_hold_every_layer_once():
    assert cut(7, 3) == ((0, 2), (2, 5), (5, 7))
    assert cut(3, 9) == ((0, 1), (1, 2), (2, 3)) and cut(4, 1) == ((0, 4),)


def test_the_same_seed_draws_the_same_blocks_and_numbers():
    torch.manual_seed(0)
    many = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(40))).double()
    _, x, y = example(linear)
    batches = [(x[:3], y[:3]), (x[3:], y[3:])]
    assert layer_traces(many, CE, batches, max_probes=4) == layer_traces(many, CE, batches, max_probes=4)


def test_the_cost_is_told_before_the_first_probe_and_progress_after_each():
    model, x, y = example(ConvNet)
    told = []
    batches = [(x, y), (x, y), (x, y)]
    layer_traces(model, CE, batches, max_probes=4, on_probe=lambda c, done: told.append((c, done)))
    assert [done for _, done in told] == list(range(13))
    expected = told[0][0]
    assert (expected.layers, expected.probes, expected.batches, expected.total) == (3, 4, 3, 12)
    assert expected.seconds == pytest.approx(12 * expected.steps * expected.step_seconds) and expected.seconds > 0
    assert (
        f"{expected.products} products a probe, about {expected.steps:.1f} training steps; 4 probes of 3 batches"
        in str(expected)
    )
    unknown = []
    layer_traces(model, CE, iter(batches), max_probes=2, on_probe=lambda c, done: unknown.append((c, done)))
    assert unknown[0][0].total is None and unknown[-1][1] == 6 and "of each batch." in str(unknown[0][0])


def test_generate_config_says_what_it_will_cost(capsys):
    model, x, y = example(ConvNet)
    generate_config(model, CE, [(x, y)], max_probes=2)
    told = capsys.readouterr()
    assert "Hessian traces of 3 layers: 3 products a probe, about" in told.err and not told.out
    generate_config(model, CE, [(x, y)], max_probes=2, show=False)
    assert capsys.readouterr().err == ""
