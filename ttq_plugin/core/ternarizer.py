"""A ternary method as a frozen value."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from ttq_plugin.core.checks import (
    LARGEST,
    check_scales,
    check_spread,
    check_weight,
    check_zeros,
    number,
    without_empty_signs,
)
from ttq_plugin.core.contract import Params
from ttq_plugin.core.rules import SCALE_INITS, SMALLEST, ThresholdRule
from ttq_plugin.core.statistics import Dims, Statistics
from ttq_plugin.core.steps import TERNARY, Step
from ttq_plugin.core.surrogates import SURROGATES
from ttq_plugin.core.ternary_step import decide
from ttq_plugin.errors import InputError
from ttq_plugin.native.training import kernels_for
from ttq_plugin.support.arguments import exact, shown

LARGEST_ALPHA = 1e15
"""So that ``alpha / sigma`` and all that is multiplied by it stays finite in float32."""

_FIXED = {"name", "rule", "t", "learn_thresholds", "learn_scales", "step", "share_thresholds"}
"""What makes a method that method: no options."""

_CHOICES = {
    "scale_init": tuple(SCALE_INITS),
    "surrogate": tuple(SURROGATES),
    "dead_zone": ("pass", "zero"),
    "on_empty": ("error", "clip"),
}


@dataclass(frozen=True)
class Ternarizer:
    """A method: its threshold rule, what it learns, and its options.

    Attributes:
        name: The method's name in ``METHODS``.
        rule: How the thresholds follow from the numbers ``t``.
        t: Initial numbers of the rule, by name.
        learn_thresholds: Whether these numbers are trained (pTTQ).
        learn_scales: Whether W_p and W_n are trained; not in pruning, where kept weights stay as they are.
        alpha: Dimensionless slope of the surrogate, ``alpha / sigma`` per unit of w; it only changes gradients.
        learn_alpha: Whether alpha is trained.
        normalize: Whether the latent weight is divided by ``max|w|`` first (TTQ). This changes the size of the
            gradient, but not the codes.
        scale_init: Initial scales: ``kept`` (E|w| over the kept weights of each sign) or ``one`` (the papers).
        surrogate: The smooth step through which the chain rule of the thresholds goes.
        dead_zone: Gradient of the latent weight in the dead zone: ``pass`` (TTQ) or ``zero`` (aTTQ, eq. 3).
        on_empty: What happens to a threshold that would leave a sign without weights: ``error``, or ``clip`` to lower
            it.
        channel: Dimension whose channels have scales and thresholds of their own; None for one pair per layer, as in
            the papers.
        step: How the weight in use follows from the latent one.
        share_thresholds: Whether all layers of a model learn the same thresholds (pttq-global).
        zeros: Share of zeros over all layers of one call at the end of the training; None to let the numbers ``t``
            decide.
        zeros_steps: Training steps over which this share rises; None to take those of the framework, or else 1000.
    """

    name: str
    rule: ThresholdRule
    t: Mapping[str, float] = field(default_factory=dict)
    learn_thresholds: bool = False
    learn_scales: bool = True
    alpha: float = 5.0
    learn_alpha: bool = False
    normalize: bool = False
    scale_init: str = "kept"
    surrogate: str = "soft"
    dead_zone: str = "pass"
    on_empty: str = "error"
    channel: int | None = None
    step: Step = TERNARY
    share_thresholds: bool = False
    zeros: float | None = None
    zeros_steps: int | None = None

    def __post_init__(self) -> None:
        for name, value in {**self.t, "alpha": self.alpha}.items():
            if not abs(value) <= LARGEST:
                raise InputError(f"{name} must be a finite number, at most {LARGEST:.2g}, got {value:g}.")
        self.rule.check(dict(self.t))
        if self.alpha <= 0:
            raise InputError(f"alpha must be positive, got {exact(self.alpha)}; pTTQ uses 5 by default.")
        if self.alpha > LARGEST_ALPHA:
            raise InputError(
                f"alpha must be at most {LARGEST_ALPHA:g}, got {exact(self.alpha)}; pTTQ uses 5 by default."
            )
        if self.channel is not None and not self.step.channels:
            raise InputError(
                f"{self.name} has one pair of scales per layer, like the released code; use granularity default."
            )
        check_zeros(self.name, self.zeros, self.zeros_steps, self._why_no_share)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} must be one of {', '.join(allowed)}, got {shown(getattr(self, name))}.")

    @property
    def _why_no_share(self) -> str:
        """Why no share of zeros can be prescribed; empty where one can."""
        if not self.rule.names:
            return "its weights are never zero"
        return "" if self.step.compares and self.rule.shift else "its zeros do not follow from its thresholds alone"

    def configure(self, **options: object) -> Ternarizer:
        """The same method with other options or other initial numbers ``t``; ``None`` leaves an option as it is.

        Args:
            options: Fields of this class or names of the rule's numbers, such as ``t_min=1.5``.

        Returns:
            A new value; this one is unchanged.

        Raises:
            InputError: For an option that the method does not have, or a value it does not allow.
        """
        given = {k: v for k, v in options.items() if v is not None}
        t = dict(self.t) | {k: number(k, v) for k, v in given.items() if k in self.rule.names}
        rest = {k: v for k, v in given.items() if k not in self.rule.names}
        allowed = {f.name for f in fields(self)} - _FIXED
        if unknown := sorted(set(rest) - allowed):
            raise InputError(
                f"{self.name} has no option {unknown[0]!r}; it takes {', '.join([*self.rule.names, *sorted(allowed)])}."
            )
        for name in {"alpha", "zeros"} & rest.keys():
            rest[name] = number(name, rest[name])
        if (self.zeros or "zeros" in rest) and (both := [name for name in self.rule.names if name in given]):
            raise InputError(
                f"zeros determines the thresholds, so {both[0]} cannot be given with it; leave one of them out."
            )
        return replace(self, t=t, **rest)  # type: ignore[arg-type]

    def for_pruning(self) -> Ternarizer:
        """The same method without scales to learn."""
        return replace(self, learn_scales=False)

    @property
    def learnable(self) -> tuple[str, ...]:
        """Names of the parameters that training changes."""
        on = self.learn_scales, self.learn_thresholds, self.learn_alpha
        return tuple(itertools.compress(("scales", "thresholds", "alpha"), on))

    def init(self, w: Tensor, name: str = "weight", thresholds: Tensor | None = None) -> tuple[Params, list[str]]:
        """Initial parameters for a layer.

        Args:
            w: The layer's latent weight, floating point, any shape; not changed.
            name: The layer's name, for messages.
            thresholds: Those to begin with, shape (k, *group), whichever signs they leave empty; None for the method's
                numbers ``t``.

        Returns:
            The parameters, each of shape (k, *group) in float32 at least, and a sentence for each clipped threshold.

        Raises:
            InputError: If the weight cannot be ternarised, or a threshold leaves a sign empty and
                ``on_empty="error"``, or even the lowest does.
        """
        w = check_weight(w.detach(), name)
        s, sigma = self.spread(w, name)
        notes: list[str] = []
        if thresholds is None:
            numbers = torch.tensor([self.t[k] for k in self.rule.names], dtype=w.dtype, device=w.device)
            t = numbers.reshape(-1, *[1] * sigma.dim()).expand(-1, *sigma.shape).contiguous()
            if self.rule.start is not None:
                t = self.rule.start(s, t)
            lower = self.on_empty == "clip" or self.zeros is not None
            t, notes = without_empty_signs(self.rule, s, t, name, self.t, lower=lower)
        else:
            t = thresholds
        positive, negative = decide(s.w, self.rule.distances(s, t.unbind(0)))
        scales = SCALE_INITS[self.scale_init](w, positive, negative, s.dims)
        if self.learn_scales:
            check_scales(scales, name)
        return {"scales": scales, "thresholds": t, "alpha": torch.full_like(sigma, self.alpha)}, notes

    def spread(self, w: Tensor, name: str) -> tuple[Statistics, Tensor]:
        """The statistics of a weight that ``check_weight`` accepted, with whole tensors for values, and their sigma.

        Args:
            w: The layer's latent weight.
            name: The layer's name, for messages.

        Returns:
            The statistics as the rule sees them, and the standard deviation of each group.

        Raises:
            InputError: If a group has one weight only, weights that are all equal, or too small or large a spread.
        """
        # Tensors are used here whether training uses floats or not, because this runs once, on any device.
        raw = Statistics(w, self.dims(w), numbers=False)
        check_spread(raw, name)
        s = Statistics(w / raw.absmax, raw.dims, numbers=False) if self.normalize else raw
        return s, torch.as_tensor(s.moments[1])

    def weights(self, w: Tensor, params: Params) -> Tensor:
        """The ternary weight, differentiable in ``w`` and in every learnable parameter.

        Args:
            w: Latent weight.
            params: The parameters, as from ``init``.

        Returns:
            A tensor of w's shape and dtype that holds exactly ``{-W_n, 0, +W_p}`` (a group).
        """
        return self.step.weights(w, params, self)

    def codes(self, w: Tensor, params: Params) -> Tensor:
        """Signs of the ternary weight: int8 tensor of -1, 0, 1, of w's shape."""
        return self.step.codes(w, params, self)

    def scales(self, w: Tensor, params: Params) -> Tensor:
        """The scales (W_p, W_n) that the ternary weight has, learned or computed from w; shape (2, *group)."""
        return self.step.scales(w, params, self)

    def project_(self, params: Params) -> None:
        """Bring what was learned back to where the method allows it, in place: all of it is at least 1e-8."""
        keep_positive_(params[name] for name in self.learnable)

    def projected(self, params: Params) -> Params:
        """What ``project_`` would leave, in new tensors: a graph that is exported has no place to write to."""
        learned = {name: value.clamp(min=SMALLEST) for name, value in params.items() if name in self.learnable}
        return {**params, **learned}

    @property
    def learns_shape(self) -> bool:
        """Whether thresholds or alpha are trained, so that the surrogate is needed."""
        return self.learn_thresholds or self.learn_alpha

    def latent(self, w: Tensor) -> Statistics:
        """Statistics of the weight as the rule sees it: divided by ``max|w|`` if the method normalises."""
        s = Statistics(w, self.dims(w))
        return Statistics(s.w / s.absmax, s.dims) if self.normalize else s

    def dims(self, w: Tensor) -> Dims:
        """The dimensions that one group of ``w`` spans."""
        return None if self.channel is None else tuple(d for d in range(w.dim()) if d != self.channel)


def keep_positive_(learned: Iterable[Any]) -> None:
    """Raise what has fallen below 1e-8 to that, in place.

    Args:
        learned: Scales, thresholds, alpha.
    """
    rest = []
    for value in learned:
        # On the CPU a check costs less than the clamp, which is almost never needed. What was clamped before
        # is the nearest number to SMALLEST in its precision: to clamp that again would spoil it for a backward pass.
        if kernels_for(value) is None or _lowest(value) < SMALLEST * (1 - 1e-6):
            rest.append(value)
    with torch.no_grad():
        if len(rest) > 1 and rest[0].is_cuda:  # one kernel for all of them
            torch._foreach_clamp_min_(rest, SMALLEST)
        else:
            for value in rest:
                value.clamp_(min=SMALLEST)


def _lowest(x: Tensor) -> float:
    """The least of a few numbers on the CPU; NaN only if the first is."""
    return min(x.tolist()) if x.dim() == 1 else float(x.detach().amin())
