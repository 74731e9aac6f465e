"""The methods written out naively, in plain autograd: the oracle for core's hand-written gradients."""

from __future__ import annotations

import torch


def thresholds(name, w, t):
    """(lower, upper) of the methods' table in methods.md; differentiable in t, the parameters, not in w."""
    w = w.detach()
    mu, sigma = w.mean(), w.std(unbiased=True)
    if name == "ttq":
        delta = t[0] * w.abs().max()
        return -delta, delta
    if name == "attq":
        return mu + t[0] * sigma, mu + t[1] * sigma
    if name in ("pttq", "pttq-global", "pttq-fixed"):
        return -(mu + t[0] * sigma).abs(), (mu + t[1] * sigma).abs()
    if name == "pttq-absolute":
        return -t[0], t[1]
    if name == "pttq-symmetric":
        return -(mu + t[0] * sigma).abs(), (mu + t[0] * sigma).abs()
    if name == "twn":
        return -t[0] * w.abs().mean(), t[0] * w.abs().mean()
    raise AssertionError(name)


def surrogate_loss(name, w, scales, t, alpha, g, dead_zone="pass"):
    """A scalar whose autograd gradient is, by construction, what the method prescribes.

    Its parts are separate terms, each differentiable in one input alone: scales through the exact ternary weight,
    w through the scaled straight-through estimator, thresholds through the soft steps.
    """
    lower, upper = thresholds(name, w, t)
    positive, negative = (w > upper).to(w.dtype).detach(), (w < lower).to(w.dtype).detach()
    exact = scales[0] * positive - scales[1] * negative
    dead = 1.0 if dead_zone == "pass" else 0.0
    slope = scales[0].detach() * positive + scales[1].detach() * negative + dead * (1 - positive - negative)
    terms = (g * exact).sum() + (g * slope * w).sum()
    if name.startswith("pttq"):
        frozen, width = w.detach(), w.detach().std(unbiased=True)
        steps = alpha / width
        soft = scales[0].detach() * torch.sigmoid(steps * (frozen - upper))
        soft = soft - scales[1].detach() * torch.sigmoid(steps * (lower - frozen))
        terms = terms + (g * soft).sum()
    return terms
