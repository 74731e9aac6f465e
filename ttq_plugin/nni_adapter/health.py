"""The health of a training, layer by layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ttq_plugin.core.model.state import TernaryState
from ttq_plugin.core.rules import SMALLEST


@dataclass(frozen=True)
class LayerHealth:
    """One layer.

    Attributes:
        name: The layer.
        zeros: Share of its weights that an export would write as zero.
        flips: Share of its weights whose code changed since the last look; 0 at the first.
        scales: (W_p, W_n) as an export would write them, the mean over channels where each has its own.
        thresholds: The method's threshold parameters by name, likewise.
        problem: What is wrong with the layer in one sentence, or None.
    """

    name: str
    zeros: float
    flips: float
    scales: tuple[float, float]
    thresholds: dict[str, float]
    problem: str | None

    @property
    def dead(self) -> bool:
        """Whether no weight of the layer has any effect: all are zero, or scaled to zero."""
        return self.zeros == 1 or max(self.scales) <= SMALLEST


@dataclass(frozen=True)
class Health:
    """All layers of a compressor.

    Attributes:
        step: Training steps done so far.
        layers: One entry for each layer.
    """

    step: int
    layers: tuple[LayerHealth, ...]

    def to_dict(self) -> dict[str, float]:
        """Flat numbers, ``layer.quantity``, as a metric logger takes them."""
        numbers: dict[str, float] = {}
        for layer in self.layers:
            scales = {"scale_positive": layer.scales[0], "scale_negative": layer.scales[1]}
            values = {"zeros": layer.zeros, "flips": layer.flips, **scales, **layer.thresholds}
            numbers |= {f"{layer.name}.{key}": value for key, value in values.items()}
        return numbers


@dataclass(frozen=True)
class Look:
    """What a compressor shows of a layer.

    Attributes:
        name: The layer.
        state: Its scales and thresholds.
        latent: The weight that the ternary step sees.
        exported: The weight that an export would write.
        idle: Why the latent weight does not train, in one sentence; None if it does.
    """

    name: str
    state: TernaryState
    latent: Tensor
    exported: Tensor
    idle: str | None = None

    def damage(self) -> str | None:
        """Which numbers of the layer are no longer finite, in one sentence, or None."""
        params = self.state.params
        found = {"weight": self.latent, "scale": params["scales"], "threshold": params["thresholds"]}
        for what, values in (found | {"alpha": params["alpha"]}).items():
            if not bool(torch.isfinite(values).all()):
                return (
                    f"a {what} is NaN or infinite, because the training diverged; lower its learning rate and start "
                    f"again, or continue from an earlier checkpoint."
                )
        return None


class Trained(Protocol):
    """What has layers to look at, such as a compressor."""

    @property
    def steps(self) -> int:
        """Training steps done so far."""

    def looks(self) -> Iterable[Look]:
        """The layers as they are now."""


class HealthMonitor:
    """Examines a compressor's layers on request and at regular steps.

    Args:
        compressor: The compressor whose layers are examined.
        callback: Called with each report that was due at its step.
        every: Steps between two reports, or ``"epoch"``, for which the evaluator calls ``tell``.
    """

    def __init__(
        self,
        compressor: Trained,
        callback: Callable[[Health], object] | None,
        every: int | Literal["epoch"],
    ) -> None:
        self.compressor, self.callback, self.every = compressor, callback, every
        self._codes: dict[str, Tensor] = {}
        self._warned: set[tuple[str, str]] = set()

    def step(self) -> None:
        """Count a training step, and examine the layers if it is due."""
        if self.callback is not None and self.every != "epoch" and self.compressor.steps % self.every == 0:
            self.tell()

    def tell(self) -> None:
        """Examine the layers and pass the report to the callback."""
        if self.callback is not None:
            self.callback(self.look())

    @torch.no_grad()
    def look(self) -> Health:
        """The current state of the layers, with a single warning for each new problem."""
        layers = []
        for look in self.compressor.looks():
            state, codes = look.state, look.state.codes(look.latent)
            before = self._codes.get(look.name, codes)
            scales = state.method.scales(look.latent, state.params)
            problem = look.damage() or _problem(look, codes, scales) or look.idle
            numbers = zip(state.method.rule.names, state.thresholds, strict=True)
            positive, negative = (row.mean().item() for row in scales)
            layers.append(
                LayerHealth(
                    name=look.name,
                    zeros=(look.exported == 0).float().mean().item(),
                    flips=(codes != before).float().mean().item(),
                    scales=(positive, negative),
                    thresholds={key: row.mean().item() for key, row in numbers},
                    problem=problem,
                )
            )
            self._codes[look.name] = codes
            self._warn(look.name, problem)
        return Health(self.compressor.steps, tuple(layers))

    @torch.no_grad()
    def warn_of_damage(self) -> None:
        """Warn of layers that hold NaN or infinity, once."""
        for look in self.compressor.looks():
            self._warn(look.name, look.damage())

    def _warn(self, name: str, problem: str | None) -> None:
        if problem is not None and (name, problem) not in self._warned:
            self._warned.add((name, problem))
            warnings.warn(f"{name}: {problem}", stacklevel=4)


def _problem(look: Look, codes: Tensor, scales: Tensor) -> str | None:
    """The problem of a layer with these codes and scales, or None."""
    if look.state.method.learn_scales and bool((scales <= SMALLEST).any()):
        where = "a scale" if scales.numel() <= 2 else "some channel's scale"
        return f"{where} fell to zero, so that sign has no effect there; lower lr_scale."
    if bool(look.latent.min() == look.latent.max()):
        return (
            "all its weights have become equal, so no threshold separates them; lower the learning rate or "
            "weight decay."
        )
    if not look.state.method.learn_scales and bool((look.exported.abs() <= SMALLEST).all() & codes.any()):
        return "its weights have vanished; lower the learning rate or weight decay."
    if not bool(codes.any()):
        return "all weights are zero, because its thresholds exceed every weight; lower them or lr_threshold."
    for sign, word in ((1, "positive"), (-1, "negative")):
        if not bool((codes == sign).any()):
            if not bool((look.latent * sign > 0).any()):
                return f"no weight is {word} any more, whatever its thresholds; lower the learning rate."
            return f"no weight is {word} any more: that threshold exceeds every weight; lower it or lr_threshold."
    return None


def frozen(weight: Tensor) -> str | None:
    """Why a weight does not train, or None.

    Args:
        weight: A layer's latent weight.

    Returns:
        A sentence if it is frozen.
    """
    if weight.requires_grad:
        return None
    return "its weight is frozen (requires_grad is False) and does not train; unfreeze it, or leave the layer out."
