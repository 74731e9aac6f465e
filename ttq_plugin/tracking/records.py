"""A finished trial as plain data, and the trade-off front of many: no MLflow, no Optuna."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ttq_plugin.fronts import upward_vector

Parameter = int | float | str | None


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial, as the search reports it.

    Attributes:
        number: The trial's number in its study, from 0.
        state: "complete", "failed" or "pruned".
        parameters: What was tried; None where a parameter does not apply to the method.
        metrics: What came out, fractions in [0, 1] for scores and gains.
        origin: "paper" for a published setting, "first" for another one that the space tries first, "warm" for one
            of an earlier search, "search" for one the sampler proposed.
        seed: The seed of this trial.
        started: Its start, in seconds since the epoch.
        seconds: How long it took.
        reason: Why it failed, None otherwise.
        notes: Remarks for a reader, such as a published value that was rounded.
        violated: The constraints that it breaks; such a trial is never on a front.
        curves: What was measured after each epoch, by metric name.
        parts: What the score is made of, such as ``recall_0``; see ``ttq_plugin.tasks.scoring.scores.parts``.
    """

    number: int
    state: str
    parameters: dict[str, Parameter]
    metrics: dict[str, float]
    origin: str
    seed: int
    started: float
    seconds: float
    reason: str | None = None
    notes: list[str] = field(default_factory=list)
    violated: list[str] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)


def objective_vector(record: TrialRecord, objectives: Sequence[str]) -> tuple[float, ...] | None:
    """The objectives of a complete trial as numbers of which more is better; None as for `natural_vector`."""
    values = natural_vector(record, objectives)
    return None if values is None else upward_vector(objectives, values)


def natural_vector(record: TrialRecord, objectives: Sequence[str]) -> tuple[float, ...] | None:
    """The objectives of a complete trial; None when it is not complete or one is missing or not finite."""
    values = tuple(record.metrics.get(name, math.nan) for name in objectives)
    comparable = record.state == "complete" and all(math.isfinite(value) for value in values)
    return values if comparable else None


def front(records: Iterable[TrialRecord], objectives: Sequence[str]) -> set[int]:
    """The non-dominated ones of the complete trials that break no constraint.

    A trial is dominated when another is at least as good everywhere and better somewhere; trials with equal vectors do
    not dominate each other, so they stay or go together.

    Args:
        records: Trials in any order and state.
        objectives: The names of the metrics; maximised, unless an `Objective` says that lower is better.

    Returns:
        The numbers of the trials on the front.
    """
    vectors = {record.number: objective_vector(record, objectives) for record in records if not record.violated}
    comparable = [(vector, number) for number, vector in vectors.items() if vector is not None]
    # In descending lexicographic order a vector can only be dominated by one that came before it, and then also by one
    # on the front so far: O(trials x front) instead of O(trials^2).
    kept: list[tuple[tuple[float, ...], int]] = []
    for vector, number in sorted(comparable, reverse=True):
        if not any(_dominates(other, vector) for other, _ in kept):
            kept.append((vector, number))
    return {number for _, number in kept}


class GrowingFront:
    """The same front of trials that come one after another: each is compared with the members only.

    Args:
        objectives: The objectives, as for `front`.
    """

    def __init__(self, objectives: Sequence[str]) -> None:
        self.objectives = tuple(objectives)
        self._members: dict[int, tuple[float, ...]] = {}

    @property
    def members(self) -> set[int]:
        """The numbers of the trials on the front."""
        return set(self._members)

    def add(self, record: TrialRecord) -> set[int]:
        """Take a trial.

        Args:
            record: One that was not taken before.

        Returns:
            The numbers of those that are off the front from now on: its own, or of members that it dominates.
        """
        vector = None if record.violated else objective_vector(record, self.objectives)
        if vector is None or any(_dominates(other, vector) for other in self._members.values()):
            return {record.number}
        beaten = {number for number, other in self._members.items() if _dominates(vector, other)}
        for number in beaten:
            del self._members[number]
        self._members[record.number] = vector
        return beaten


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))
