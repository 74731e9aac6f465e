"""pttq-released against the released formulas written out naively here, underflow included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ttq_plugin.core import METHODS
from ttq_plugin.errors import InputError

METHOD = METHODS["pttq-released"]


def sigmoid(x):
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-x.astype(np.float32)))).astype(np.float32)


def naive(w, t_min, t_max, alpha):
    """p(w) in NumPy float32, and its derivatives by the two distances."""
    w = w.astype(np.float32)
    mu, sigma = w.mean(dtype=np.float64), w.std(ddof=1, dtype=np.float64)
    d_min, d_max = np.float32(abs(mu + t_min * sigma)), np.float32(abs(mu + t_max * sigma))
    a, b = np.float32(alpha) * (w - d_max), np.float32(alpha) * (-w - d_min)
    p = np.maximum(w - d_max, 0) + d_max * sigmoid(a) - np.maximum(-w - d_min, 0) - d_min * sigmoid(b)
    s, r = sigmoid(a).astype(np.float64), sigmoid(b).astype(np.float64)
    d_upper = -(w > d_max).astype(float) + s - alpha * d_max * s * (1 - s)
    d_lower = (-w > d_min).astype(float) - r + alpha * d_min * r * (1 - r)
    return p, d_lower.sum() * sigma * np.sign(mu + t_min * sigma), d_upper.sum() * sigma * np.sign(mu + t_max * sigma)


@pytest.mark.parametrize("alpha, zeros", [(1e4, 0.587), (1e2, 0.0)])
def test_zeros_are_the_underflow_of_float32(alpha, zeros):
    """methods.md: 100 000 weights of N(0, 0.05^2), t_min = t_max = 1."""
    w = 0.05 * torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    method = METHOD.configure(alpha=alpha)
    params, _ = method.init(w)
    codes = method.codes(w, params)
    assert (codes == 0).float().mean().item() == pytest.approx(zeros, abs=0.005)
    p, _, _ = naive(w.numpy(), 1.0, 1.0, alpha)
    # Where p is a denormal, the last digit of an exponential decides; everywhere else the signs agree.
    clear = np.abs(p) > 1e-35
    assert np.array_equal(np.sign(p)[clear], codes.numpy()[clear]) and clear.mean() > 0.3


def test_gradients_as_released():
    generator = torch.Generator().manual_seed(1)
    w = 0.05 * torch.randn(5000, generator=generator) + 0.005
    g = torch.randn(5000, generator=generator)
    method = METHOD.configure(t_min=0.8, t_max=1.2, alpha=300.0)
    params, _ = method.init(w)
    assert params["scales"].tolist() == [1.0, 1.0]
    params["scales"] = torch.tensor([0.3, 0.2])
    leaf = w.clone().requires_grad_()
    leaves = {k: v.clone().requires_grad_(k in method.learnable) for k, v in params.items()}
    q = method.weights(leaf, leaves)
    (q * g).sum().backward()
    codes = method.codes(w, params)
    sums = [g[codes > 0].sum().item(), g[codes < 0].sum().item()]  # no minus on the second: as released
    assert leaves["scales"].grad.tolist() == pytest.approx(sums, rel=1e-4)
    scale = torch.where(codes > 0, 0.3, torch.where(codes < 0, 0.2, 1.0))
    assert torch.allclose(leaf.grad, g * scale, rtol=1e-5, atol=1e-7)
    _, d_min, d_max = naive(w.numpy(), 0.8, 1.2, 300.0)
    assert leaves["thresholds"].grad.tolist() == pytest.approx([d_min, d_max], rel=1e-3)


def test_thresholds_drift_the_same_way_whatever_the_loss():
    w = 0.05 * torch.randn(1000, generator=torch.Generator().manual_seed(2))
    params, _ = METHOD.init(w)
    drifts = []
    for factor in (1.0, -1.0, 0.0):
        leaves = {k: v.clone().requires_grad_(k in METHOD.learnable) for k, v in params.items()}
        (METHOD.weights(w.clone().requires_grad_(), leaves) * factor).sum().backward()
        drifts.append(leaves["thresholds"].grad)
    assert torch.equal(drifts[0], drifts[1]) and torch.equal(drifts[0], drifts[2]) and drifts[0].abs().min() > 0


def test_it_has_one_pair_of_scales_a_layer():
    with pytest.raises(InputError, match="pttq-released has one pair of scales per layer"):
        METHOD.configure(channel=0)
