"""Runs one trial's compression, from the drawn values to the numbers that are reported to the study."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttq_plugin.errors import Diverged
from ttq_plugin.fronts import upward_vector
from ttq_plugin.search.crew.job import TrialCode
from ttq_plugin.search.space.measured import measured
from ttq_plugin.search.space.objectives import gains, violations
from ttq_plugin.search.space.space import Space


@dataclass(frozen=True)
class Attempt:
    """The results of a finished compression.

    Attributes:
        outcome: The compression's, with its model.
        metrics: Every finite number, by name; natural values.
        values: The objectives in the space's order, all of them better when higher.
        limits: How much each constraint is violated, by its text; 0 or less where it holds.
        notes: Notes, for example on numbers that were not finite.
        parts: What the score is made of, such as the recall of each class.
    """

    outcome: Any
    metrics: dict[str, float]
    values: list[float]
    limits: dict[str, float]
    notes: list[str]
    parts: dict[str, float]


def attempt(space: Space, code: TrialCode, prepared: Any, settings: Mapping[str, Any], **hooks: Any) -> Attempt:
    """Run one compression and measure what the space asks for.

    Args:
        space: What is searched.
        code: Runs compressions.
        prepared: What the trials share.
        settings: Keywords of the code's Settings.
        **hooks: The hooks of the code's run.

    Returns:
        The numbers.

    Raises:
        Diverged: If the training or an objective leaves the finite numbers.
    """
    outcome = code.run(prepared, code.Settings(**settings), **hooks)
    metrics = {name: float(value) for name, value in outcome.metrics.items()}
    metrics = gains(metrics | measured(space, outcome.model, prepared))
    natural = [metrics[name] for name in space.objectives]
    for name, value in zip(space.objectives, natural, strict=True):
        # Optuna fails a trial whose value is NaN, but takes infinity for the best value ever seen.
        if not math.isfinite(value):
            raise Diverged(f"the objective {name} is {value}")
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    dropped = [f"{name} is {value}" for name, value in metrics.items() if name not in finite]
    limits = violations(space.limits, finite)
    limits |= space.far_below(finite.get(space.score), getattr(prepared, "score", None))
    return Attempt(
        outcome=outcome,
        metrics=finite,
        values=list(upward_vector(space.objectives, natural)),
        limits=limits,
        notes=[*outcome.notes, *dropped],
        parts={name: float(value) for name, value in getattr(outcome, "parts", {}).items() if math.isfinite(value)},
    )
