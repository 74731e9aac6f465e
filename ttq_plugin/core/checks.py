"""Checks of weights, options and initial thresholds before a method uses them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ttq_plugin.core.rules import SMALLEST, ThresholdRule
from ttq_plugin.core.statistics import Statistics, full_precision, total
from ttq_plugin.errors import InputError
from ttq_plugin.support.arguments import shown

LARGEST = torch.finfo(torch.float32).max
"""The largest number that float32 holds."""

CLIP = 0.9
"""With ``on_empty="clip"``, a threshold that leaves a sign without weights is lowered to this share of its largest
weight."""


def check_weight(w: Tensor, name: str) -> Tensor:
    """Check that a method can ternarise ``w``, and return it in float32 at least.

    Args:
        w: A layer's latent weight.
        name: The layer's name, for messages.

    Returns:
        ``w`` itself, or its float32 copy if it is in half precision.

    Raises:
        InputError: If it is not floating point, has fewer than two values, or holds NaN or infinity.
    """
    if not w.is_floating_point():
        raise InputError(f"{name}: weights must be real floating point, got {w.dtype}.")
    if w.numel() < 2:
        raise InputError(f"{name}: needs at least two weights to be ternarised, has {w.numel()}; exclude it.")
    if not bool(torch.isfinite(w).all()):
        raise InputError(f"{name}: weights must be finite, found NaN or infinity; repair or retrain the layer first.")
    return full_precision(w)


def check_spread(s: Statistics, name: str) -> None:
    """Check that a weight's standard deviation can be computed, for each group that has one.

    Args:
        s: The weight's statistics, before any division, with tensors as values.
        name: The layer's name, for messages.

    Raises:
        InputError: If a group has one weight only, weights that are all equal, or a spread whose square its precision
            cannot hold.
    """
    ones = torch.ones_like(s.w)
    if s.dims is not None and bool((total(ones, s.dims) < 2).any()):
        raise InputError(
            f"{name}: a channel needs at least two weights for thresholds of its own, but each has one; use "
            "granularity default."
        )
    size = torch.as_tensor(s.absmax)
    # Of weights scaled to about 1, so that it neither under- nor overflows.
    relative = torch.as_tensor(
        Statistics(s.w / size.clamp_min(torch.finfo(s.w.dtype).tiny), s.dims, numbers=False).moments[1]
    )
    if not bool((relative * (size > 0) > 0).all()):
        raise InputError(
            f"{name}: all weights are equal (sigma = 0), so no threshold separates them; exclude the layer."
        )
    least = torch.finfo(s.w.dtype).tiny ** 0.4
    sigma = relative.double() * size.double()
    if bool((wrong := (sigma < least) | (sigma > 1 / least)).any()):
        raise InputError(
            f"{name}: the weights' standard deviation must lie between {least:.0e} and {1 / least:.0e} to be computed "
            f"in {str(s.w.dtype).removeprefix('torch.')}, got {sigma[wrong][0].item():.3g}; rescale the layer, or "
            "exclude it."
        )


def check_scales(scales: Tensor, name: str) -> None:
    """Check that initial scales lie above the bound to which learned ones are raised.

    Args:
        scales: ``(W_p, W_n)``.
        name: The layer's name, for messages.

    Raises:
        InputError: If one does not, because the first training step would raise it several times over.
    """
    if bool((scales < SMALLEST).any()):
        raise InputError(
            f"{name}: its weights are too small: the mean of the kept ones is {scales.min().item():.3g}, but a "
            f"learned scale must be at least {SMALLEST:g}; rescale the layer, or exclude it."
        )


def check_zeros(method: str, zeros: float | None, steps: object, why_not: str) -> None:
    """Check a prescribed share of zeros, if there is one.

    Args:
        method: The method's name, for messages.
        zeros: The share.
        steps: The option ``zeros_steps``, over which the share rises.
        why_not: Why this method cannot meet any share; empty if it can.

    Raises:
        InputError: If the share is not in (0, 1), the method cannot meet any share, or ``zeros_steps`` is invalid.
    """
    if zeros is None:
        if steps is not None:
            raise InputError(f"zeros_steps requires zeros, got zeros_steps = {steps!r} alone; set zeros as well.")
        return
    if not 0 < zeros < 1:
        raise InputError(f"zeros must lie in (0, 1), got {zeros:g}; 0.9 makes nine of ten weights zero.")
    if why_not:
        raise InputError(f"{method} cannot meet a share of zeros, because {why_not}; use pttq, attq or ttq.")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise InputError(f"zeros_steps must be a whole number of at least 1, got {steps!r}.")


def number(name: str, value: object) -> float:
    """Convert an option's value to a float.

    Args:
        name: The option's name, for the message.
        value: What was given.

    Returns:
        The value.

    Raises:
        InputError: If it is not a number, or larger than any float.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{name} must be a number, got {shown(value)}.")
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{name} must be at most {LARGEST:.2g}, got an integer that exceeds every float.") from None


def without_empty_signs(
    rule: ThresholdRule, s: Statistics, t: Tensor, name: str, given: Mapping[str, float], *, lower: bool
) -> tuple[Tensor, list[str]]:
    """Lower the rule's parameters if they would leave a sign without weights.

    Args:
        rule: How thresholds follow from the parameters.
        s: Statistics of the layer's weight.
        t: The parameters, shape (k, *group).
        name: The layer's name, for messages.
        given: The parameters as the user gave them, by name, for messages.
        lower: Whether a threshold may be lowered.

    Returns:
        The initial parameters, and a sentence for each that was lowered.

    Raises:
        InputError: If a sign has no weights at all, or loses them and the threshold may not be lowered enough.
    """
    peaks = s.stack(s.peaks)
    if not bool((peaks > 0).all()):
        missing = "positive" if not bool((peaks[1] > 0).all()) else "negative"
        raise InputError(f"{name}: no weight is {missing}, so the layer cannot be ternary; exclude it.")
    distances = s.stack(rule.distances(s, t.unbind(0)))
    empty = distances >= peaks
    if not bool(empty.any()):
        return t, []
    if not lower:
        where, distance, peak = _first_empty(distances, peaks, s)
        raise InputError(
            f"{name}: the threshold at {distance:.3g} sigma ({', '.join(f'{k} = {v:g}' for k, v in given.items())}) "
            f"leaves no {where} weight, because the largest |w| / sigma there is {peak:.3g}; "
            'lower the threshold, or pass on_empty="clip".'
        )
    clipped = rule.invert(s, torch.where(empty, CLIP * peaks, distances))
    t = torch.where(empty.any(dim=0) if len(t) == 1 else empty, clipped, t)
    left = s.stack(rule.distances(s, t.unbind(0)))
    if bool((left >= peaks).any()):
        where, distance, peak = _first_empty(left, peaks, s)
        raise InputError(
            f"{name}: even its lowest threshold, at {distance:.3g} sigma, leaves no {where} weight, because the "
            f"largest |w| / sigma there is {peak:.3g}; use attq, whose thresholds lie about the mean, or "
            "exclude the layer."
        )
    values = ", ".join(f"{k} = {v.mean().item():.4g}" for k, v in zip(rule.names, t, strict=True))
    return t, [f"{name}: thresholds lowered to {values}, because otherwise a sign would have no weights left."]


def _first_empty(distances: Tensor, peaks: Tensor, s: Statistics) -> tuple[str, float, float]:
    """The first sign without weights, its distance, and its largest weight, both in sigmas."""
    row, *group = (distances >= peaks).nonzero()[0].tolist()
    sigma = torch.as_tensor(s.moments[1])
    peak, distance = ((x[row] / sigma)[tuple(group)].item() for x in (peaks, distances))
    return ("negative", "positive")[row], distance, peak
