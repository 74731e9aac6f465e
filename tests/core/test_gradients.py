"""Every gradient in float64 against closed forms, autograd of a naive twin, and finite differences."""

from __future__ import annotations

import pytest
import torch

from tests.core.naive import surrogate_loss, thresholds
from ttq_plugin.core import METHODS

SHAPE = (7, 5, 3, 3)
STEP = ["ttq", "attq", "pttq", "pttq-absolute", "pttq-symmetric", "pttq-global", "pttq-fixed"]
"""The methods of the ternary step, whose scales learn."""


def case(name, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    w = 0.1 * torch.randn(SHAPE, generator=generator, dtype=torch.float64) + 0.01
    g = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    method = METHODS[name].configure(**options)
    params, notes = method.init(w)
    assert not notes
    params["scales"] = params["scales"] * torch.tensor([1.1, 0.7], dtype=torch.float64)  # the two must not be confused
    return method, w, g, params


def gradients(method, w, g, params):
    w = w.clone().requires_grad_()
    leaves = {k: v.clone().requires_grad_(k in method.learnable) for k, v in params.items()}
    (method.weights(w, leaves) * g).sum().backward()
    return {"w": w.grad, **{k: v.grad for k, v in leaves.items() if k in method.learnable}}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dead_zone", ["pass", "zero"])
@pytest.mark.parametrize("name", [n for n in STEP if n != "ttq"])
def test_gradients_equal_autograd_of_the_naive_twin(name, dead_zone, seed):
    method, w, g, params = case(name, seed, dead_zone=dead_zone)
    got = gradients(method, w, g, params)
    leaf = w.clone().requires_grad_()
    scales, t = params["scales"].clone().requires_grad_(), params["thresholds"].clone().requires_grad_()
    surrogate_loss(name, leaf, scales, t, method.alpha, g, dead_zone).backward()
    assert torch.allclose(got["w"], leaf.grad, rtol=0, atol=1e-12)
    assert torch.allclose(got["scales"], scales.grad, rtol=0, atol=1e-10)
    if method.learn_thresholds:
        assert t.grad.abs().min() > 1e-6
        assert torch.allclose(got["thresholds"], t.grad, rtol=0, atol=1e-10)


def test_gradients_of_ttq_are_of_the_normalised_weight():
    method, w, g, params = case("ttq")
    got = gradients(method, w, g, params)
    largest = w.abs().max()
    leaf, scales = w.clone().requires_grad_(), params["scales"].clone().requires_grad_()
    surrogate_loss("ttq", leaf / largest, scales, params["thresholds"], None, g).backward()
    assert torch.allclose(got["w"], leaf.grad, rtol=0, atol=1e-12)
    assert torch.allclose(got["scales"], scales.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", STEP)
def test_scale_gradients_in_closed_form(name):
    method, w, g, params = case(name)
    got = gradients(method, w, g, params)
    codes = method.codes(w, params)
    assert (codes > 0).any() and (codes < 0).any() and (codes == 0).any()
    expected = torch.stack((g[codes > 0].sum(), -g[codes < 0].sum()))
    assert torch.allclose(got["scales"], expected, rtol=0, atol=1e-12)


def test_threshold_gradient_is_the_derivative_of_the_soft_steps():
    """Finite differences of q = W_p S(s (w - D_max)) - W_n S(s (-w - D_min)), written out here, no autograd."""
    method, w, g, params = case("pttq", t_min=0.8, t_max=1.3, alpha=7.0)
    got = gradients(method, w, g, params)["thresholds"]
    scales, t, slope = params["scales"], params["thresholds"], 7.0 / w.std()

    def loss(numbers):
        lower, upper = thresholds("pttq", w, numbers)
        soft = scales[0] * torch.sigmoid(slope * (w - upper)) - scales[1] * torch.sigmoid(slope * (lower - w))
        return (g * soft).sum()

    step = 1e-6
    for i in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[i] = step
        numeric = (loss(t + shift) - loss(t - shift)) / (2 * step)
        assert got[i].item() == pytest.approx(numeric.item(), rel=1e-7)


def test_threshold_gradient_where_the_mean_turns_the_threshold_round():
    """With mu + t sigma < 0 the distance is its absolute value: its derivative changes sign."""
    method, w, g, params = case("pttq", t_min=0.2, t_max=0.2)
    w = w - 0.05
    params, _ = method.init(w)
    got = gradients(method, w, g, params)["thresholds"]
    assert (w.mean() + 0.2 * w.std()).item() < 0
    t = params["thresholds"].clone().requires_grad_()
    surrogate_loss("pttq", w, params["scales"], t, method.alpha, g).backward()
    assert torch.allclose(got, t.grad, rtol=0, atol=1e-10)


def test_alpha_learns_where_it_is_asked_to():
    method, w, g, params = case("pttq", learn_alpha=True)
    got = gradients(method, w, g, params)["alpha"]
    alpha = params["alpha"].clone().requires_grad_()
    surrogate_loss("pttq", w, params["scales"], params["thresholds"], alpha, g).backward()
    assert got.item() == pytest.approx(alpha.grad.item(), rel=1e-10)


@pytest.mark.parametrize("name", STEP)
def test_per_channel_equals_each_channel_alone(name):
    method, w, g, _ = case(name)
    by_channel = method.configure(channel=0)
    params, _ = by_channel.init(w)
    whole = gradients(by_channel, w, g, params)
    for channel in range(SHAPE[0]):
        single, _ = method.init(w[channel])
        alone = gradients(method, w[channel], g[channel], single)
        assert torch.equal(by_channel.codes(w, params)[channel], method.codes(w[channel], single))
        for key, value in alone.items():
            got = whole[key][channel] if key == "w" else whole[key][:, channel].flatten()
            assert torch.allclose(got, value, rtol=0, atol=1e-10), key


@pytest.mark.parametrize("name", ["twn", "dorefa"])
def test_methods_without_learned_numbers_pass_the_gradient_straight_through(name):
    method, w, g, params = case(name)
    assert gradients(method, w, g, params).keys() == {"w"}
    assert torch.equal(gradients(method, w, g, params)["w"], g)


@pytest.mark.parametrize("channel", [None, 0])
def test_the_weak_surrogate_is_the_papers_derivative_chained(channel):
    """Autograd of p(w) = relu(w - D_max) + D_max S(a) - relu(-w - D_min) - D_min S(b), with dL/dp straight through."""
    method, w, g, _ = case("pttq", surrogate="weak", learn_alpha=True, t_min=0.8, t_max=1.3, channel=channel)
    params, _ = method.init(w)
    got = gradients(method, w, g, params)
    dims = None if channel is None else (1, 2, 3)
    kept = {"keepdim": True} if dims else {}
    mu = w.mean(dim=dims, **kept) if dims else w.mean()
    sigma = w.std(dim=dims, **kept) if dims else w.std()
    t, alpha = params["thresholds"].clone().requires_grad_(), params["alpha"].clone().requires_grad_()
    low, high, slope = (mu + t[0] * sigma).abs(), (mu + t[1] * sigma).abs(), alpha / sigma
    p = torch.relu(w - high) + high * torch.sigmoid(slope * (w - high))
    p = p - torch.relu(-w - low) - low * torch.sigmoid(slope * (-w - low))
    codes = method.codes(w, params)
    factor = torch.where(codes > 0, params["scales"][0], torch.where(codes < 0, params["scales"][1], 1.0))
    (p * g * factor).sum().backward()
    assert torch.allclose(got["thresholds"], t.grad, rtol=0, atol=1e-10)
    assert torch.allclose(got["alpha"], alpha.grad, rtol=0, atol=1e-10)
