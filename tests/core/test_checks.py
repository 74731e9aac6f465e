"""Numbers that are asked are met or refused: thresholds that empty a sign, weights and options out of range."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

from ttq_plugin.core import METHODS
from ttq_plugin.core.model.attach import bake, ternarize
from ttq_plugin.errors import InputError

TERNARY = [name for name in METHODS if name != "dorefa"]


def weights(mean=0.0, low=-math.inf, shape=(32, 16)):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return (mean + w).clamp_min(low)


@pytest.mark.parametrize("granularity", ["default", "out_channel"])
@pytest.mark.parametrize("mean, low", [(0.0, -math.inf), (0.5, -0.05), (-2.0, -9.0), (2.0, -0.01), (0.3, -0.3)])
@pytest.mark.parametrize("name", [n for n in TERNARY if n not in ("pttq-global", "pttq-released")])
def test_a_clipped_layer_has_both_signs_or_is_refused(name, mean, low, granularity):
    model = nn.Sequential(nn.Linear(16, 32))
    model[0].weight.data = weights(mean, low)
    t = {"t": 0.9} if name in ("ttq", "twn", "pttq-symmetric") else {"t_min": 3.0, "t_max": 3.0}
    t = {"t_min": -3.0, "t_max": 3.0} if name == "attq" else t
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ternarize(model, ["0"], name, on_empty="clip", granularity=granularity, **t)
    except InputError as error:
        assert mean != 0 and ("no weight is" in str(error) or "even its lowest threshold" in str(error))
        return
    weight = bake(model)[0].weight
    groups = weight if granularity == "out_channel" else [weight]
    assert all(bool((group > 0).any()) and bool((group < 0).any()) for group in groups)


def test_the_sentence_where_even_the_lowest_threshold_is_too_high():
    w = (weights() * 0.2 + 0.5).clamp_min(-0.05)
    w[0, 0] = -0.05
    message = (
        "conv: even its lowest threshold, at 2.* sigma, leaves no negative weight, because the largest .* use attq"
    )
    with pytest.raises(InputError, match=message):
        METHODS["pttq"].configure(on_empty="clip").init(w, "conv")
    params, _ = METHODS["attq"].init(w, "conv")
    assert bool((METHODS["attq"].codes(w, params) < 0).any())


@pytest.mark.parametrize(
    "module", [nn.Conv2d(8, 8, 1, groups=8), nn.Linear(1, 5), nn.ConvTranspose1d(1, 6, 1)], ids=["depthwise", "1", "t"]
)
@pytest.mark.parametrize("name", [n for n in METHODS if n != "pttq-released"])
def test_channels_of_one_weight(name, module):
    with pytest.raises(InputError, match="0: a channel needs at least two weights for thresholds of its own"):
        ternarize(nn.Sequential(module), ["0"], name, granularity="out_channel", on_empty="clip")


def test_a_channel_whose_weights_are_equal():
    layer = nn.Linear(4, 3)
    layer.weight.data[1] = 0.0
    with pytest.raises(InputError, match="0: all weights are equal"):
        ternarize(nn.Sequential(layer), ["0"], "ttq", granularity="out_channel")


@pytest.mark.parametrize("name", TERNARY)
@pytest.mark.parametrize(
    "factor, message",
    [
        (1e-25, r"standard deviation must lie between 7e-16 and 1e\+15 to be computed in float32, got \d.*e-2"),
        (1e25, r"standard deviation must lie between .* got \d.*e\+2"),
        (0.0, "all weights are equal"),
    ],
)
def test_weights_out_of_range(name, factor, message):
    with pytest.raises(InputError, match=f"conv: .*{message}"):
        METHODS[name].init(weights() * factor, "conv")


@pytest.mark.parametrize("name", ["ttq", "attq", "pttq"])
def test_weights_below_the_least_scale(name):
    """A scale is raised to 1e-8 after each step, which would multiply these weights by hundreds."""
    with pytest.raises(InputError, match="conv: its weights are too small: the mean of the kept ones is .*e-1[012]"):
        METHODS[name].init(weights() * 1e-11, "conv")
    METHODS[name].for_pruning().init(weights() * 1e-11, "conv")
    METHODS["twn"].init(weights() * 1e-11, "conv")


@pytest.mark.parametrize("name", [n for n in TERNARY if n != "pttq-released"])
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_weights_of_other_sizes_have_the_same_codes(name, factor):
    w = weights().double()
    codes = [METHODS[name].codes(x, METHODS[name].init(x)[0]) for x in (w, w * factor)]
    assert torch.equal(*codes)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"alpha": 1e40}, r"alpha must be a finite number, at most 3.4e\+38, got 1e\+40"),
        ({"alpha": 1e16}, r"alpha must be at most 1e\+15, got 1e\+16"),
        ({"alpha": 10**400}, "alpha must be at most .*, got an integer that exceeds every float"),
        ({"t_min": 1e39}, "t_min must be a finite number"),
        ({"t_max": math.inf}, "t_max must be a finite number, .* got inf"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        METHODS["pttq"].configure(**options)


def test_the_largest_slope_gives_finite_gradients():
    method = METHODS["pttq"].configure(alpha=1e15, learn_alpha=True)
    w = weights().requires_grad_()
    params = {key: value.requires_grad_() for key, value in method.init(w)[0].items()}
    method.weights(w, params).sum().backward()
    assert all(bool(torch.isfinite(x.grad).all()) for x in (w, *params.values()))
