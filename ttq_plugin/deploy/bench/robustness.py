"""How a model's score drops when its inputs are disturbed, compared with full precision on the same inputs."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.errors import InputError
from ttq_plugin.statistics.resampling import Answers, change, interval
from ttq_plugin.support import inputs
from ttq_plugin.tasks.memory import Batch
from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.tasks.samples import Samples
from ttq_plugin.tasks.scoring.readings import IGNORED, main_output
from ttq_plugin.tasks.scoring.scores import outputs_of, score_outputs

Disturb = Callable[[Tensor, float, torch.Generator], Tensor]
"""``(inputs (batch, channels, ...), level, generator) -> inputs`` of the same shape."""


def noise(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Add white noise at a signal-to-noise ratio in dB; a channel's signal is what deviates from its mean."""
    flat = tuple(range(2, x.dim()))
    power = x.var(flat, correction=0, keepdim=True)
    drawn = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x + drawn * (power * 10 ** (-level / 10)).sqrt()


def gain(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Multiply by a factor, as another amplifier would."""
    return x * level


def lead_off(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Set one channel to zero for a contiguous share of the last dimension; channel and position are drawn."""
    length = x.shape[-1]
    missing = round(level * length)
    channel = torch.randint(x.shape[1], (len(x), 1), generator=generator)
    start = torch.randint(length - missing + 1, (len(x), 1), generator=generator)
    place = torch.arange(length)
    inside = (place >= start) & (place < start + missing)
    off = (torch.arange(x.shape[1]) == channel)[:, :, None] & inside[:, None, :]
    return x.masked_fill(off.reshape(*off.shape[:2], *[1] * (x.dim() - 3), length), 0.0)


def resampled(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Sample a signal with a clock that is off by some percent, around its middle, by linear interpolation.

    Beyond the ends, the outermost values are repeated.

    Args:
        x: (batch, channels, time).
        level: Percent by which the clock is too fast; a fast clock stretches the signal.
        generator: Not used.

    Returns:
        Signals of the same length.
    """
    length = x.shape[-1]
    middle = (length - 1) / 2
    at = (middle + (torch.arange(length, dtype=torch.float64) - middle) / (1 + level / 100)).clamp(0, length - 1)
    left = at.floor().long().clamp(max=max(length - 2, 0))
    share = (at - left).to(x.dtype)
    return x[..., left] * (1 - share) + x[..., (left + 1).clamp(max=length - 1)] * share


@dataclass(frozen=True)
class Kind:
    """A way to disturb inputs.

    Attributes:
        name: The name, in the results.
        words: A description with the unit of the levels.
        levels: The levels, from slight to strong or across zero.
        disturb: Function that disturbs inputs; None if targets are disturbed.
        signals_only: Whether inputs must be (batch, channels, time).
    """

    name: str
    words: str
    levels: tuple[float, ...]
    disturb: Disturb | None
    signals_only: bool = False


KINDS = (
    Kind("noise", "noise, signal-to-noise ratio in dB", (30.0, 20.0, 10.0, 5.0, 0.0), noise),
    Kind("gain", "gain, factor", (0.5, 0.8, 1.25, 2.0), gain),
    Kind("lead_off", "one channel at zero, share of the time", (0.1, 0.25, 0.5, 1.0), lead_off),
    Kind("resampling", "sampling rate off, %", (-5.0, -2.0, 2.0, 5.0), resampled, signals_only=True),
    Kind("label_noise", "wrong reference labels, share", (0.02, 0.05, 0.1, 0.2), None),
)
"""The disturbances, in the order of the table."""


@dataclass(frozen=True)
class Disturbed:
    """Samples whose inputs are disturbed batch by batch, in the same way each time.

    Attributes:
        samples: The undisturbed samples.
        kind: The kind of change.
        level: The strength of the change.
        seed: Random seed of the disturbance.
    """

    samples: Samples
    kind: Kind
    level: float
    seed: int

    @property
    def scoring_batch(self) -> int:
        """The batch size of the samples."""
        return self.samples.scoring_batch

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Go through all samples.

        Args:
            size: Samples per batch.
            generator: Shuffles them.

        Yields:
            Disturbed inputs, and the targets.
        """
        drawn = _generator(self.kind, self.level, self.seed)
        for x, y in self.samples.batches(size, generator):
            yield x if self.kind.disturb is None else self.kind.disturb(x, self.level, drawn), y


def _generator(kind: Kind, level: float, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"{kind.name} {level:g} {seed}".encode()))


def curves(full: nn.Module, model: nn.Module, samples: Samples, metric: Metric, *, seed: int = 0) -> dict[str, Any]:
    """Score both models on the same disturbed samples.

    Args:
        full: The full-precision model, on the CPU.
        model: The compressed one.
        samples: A split, on the CPU; its inputs are (batch, channels, time) or (batch, channels, height, width).
        metric: The metric of the task.
        seed: Random seed of noise, of the places of what is missing, and of wrong labels.

    Returns:
        ``seed``, ``metric``, ``skipped`` (names of kinds that these samples do not allow, and why) and ``levels``:
        first the undisturbed samples (``kind`` None), then each kind and level, with ``full``, ``compressed`` and
        ``change``, each with its ``value`` and, where it is known, its interval over groups.

    Raises:
        InputError: If the inputs are of another form.
    """
    first = samples.head(1).x
    _check(first)
    groups = samples.group_ids
    plain = [Answers(*outputs_of(each, samples, _reading(metric)), groups) for each in (full, model)]
    rows, skipped = [_row(None, None, plain, metric)], {}
    for kind in KINDS:
        if why := _impossible(kind, first, plain[0]):
            skipped[kind.name] = why
            continue
        for level in kind.levels:
            if kind.disturb is None:
                targets = _wrong(plain[0], level, _generator(kind, level, seed))
                answers = [Answers(each.outputs, targets, groups) for each in plain]
            else:
                seen: Any = Disturbed(samples, kind, level, seed)
                answers = [Answers(*outputs_of(each, seen, _reading(metric)), groups) for each in (full, model)]
            rows.append(_row(kind.name, level, answers, metric))
    return {"seed": seed, "metric": metric.name, "skipped": skipped, "levels": rows}


def _reading(metric: Metric) -> Callable[[Any], Any]:
    return main_output if metric.builtin else lambda outputs: outputs


def _check(x: Any) -> None:
    if not (isinstance(x, Tensor) and x.dim() in (3, 4) and x.is_floating_point()):
        raise InputError(
            "robustness is measured on one floating-point input of the shape (batch, channels, time) or (batch, "
            f"channels, height, width), but the samples are {inputs.kind(x)}."
        )


def _impossible(kind: Kind, x: Tensor, answers: Answers) -> str:
    """Why these samples do not allow the disturbance; "" if they do."""
    if kind.signals_only and x.dim() != 3:
        return "pictures have no sampling rate"
    if kind.disturb is None and _classes(answers) < 2:
        return "the targets are not one class for each sample"
    return ""


def _classes(answers: Answers) -> int:
    """The number of classes; 0 if samples do not have exactly one class."""
    y, outputs = answers.targets, answers.outputs
    if not isinstance(y, Tensor) or not isinstance(outputs, Tensor) or y.is_floating_point() or y.dim() != 1:
        return 0
    return outputs.shape[1] if outputs.dim() == 2 and outputs.shape[1] > 1 else 2


def _wrong(answers: Answers, share: float, generator: torch.Generator) -> Tensor:
    """Replace a random share of the targets by other classes; samples that the score ignores stay ignored."""
    y: Tensor = answers.targets
    scored = (y != IGNORED).nonzero()[:, 0]
    count = round(share * len(scored))
    places = scored[torch.randperm(len(scored), generator=generator)[:count]]
    classes = _classes(answers)
    turned = y.clone()
    turned[places] = (y[places] + torch.randint(1, classes, (count,), generator=generator)) % classes
    return turned


def _row(kind: str | None, level: float | None, answers: list[Answers], metric: Metric) -> dict[str, Any]:
    before, after = answers
    values = [score_outputs(each.outputs, each.targets, metric).value for each in answers]
    known = [interval(metric, each) for each in answers]
    moved = change(metric, before, after)
    full, own = ({"value": v} | (k.to_dict() if k else {}) for v, k in zip(values, known, strict=True))
    return {
        "kind": kind,
        "level": level,
        "full": full,
        "compressed": own,
        "change": {"value": values[1] - values[0]} | (moved.to_dict() if moved else {}),
    }
