"""Scores finished models on the test split, with intervals; nothing is decided by these scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from ttq_plugin.statistics.noninferiority import Key, Verdict, verdicts
from ttq_plugin.statistics.resampling import Answers, Interval, change, interval
from ttq_plugin.support.frames import of_the_user
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.checks.check import load_data
from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.tasks.scoring.readings import main_output
from ttq_plugin.tasks.scoring.scores import Score, outputs_of, score_outputs
from ttq_plugin.tasks.task import Task
from ttq_plugin.trial.prepared import check_same_data

POINT = 0.01
"""The default margin for metrics in percent: one point."""


@dataclass(frozen=True)
class Tested(Score):
    """A model's score on the test split.

    Attributes:
        interval: The interval of the score, over the split's groups (people, recordings) or, where none are known, its
            samples; None if it is unknown.
        change: From the first model that was scored with this one, on the same samples; None for that one itself.
    """

    interval: Interval | None = None
    change: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """Interval and change as JSON, under ``test_interval`` and ``test_change``; what is not known is left out."""
        found = {"interval": self.interval, "change": self.change}
        return {f"test_{name}": value.to_dict() for name, value in found.items() if value is not None}

    def evidence(self, score: str) -> dict[str, float]:
        """How sure the score is, as flat numbers that MLflow keeps; ``change_of`` reads them.

        Args:
            score: The metric's name.

        Returns:
            ``test_<score>_low`` and ``_high``; of the change, ``test_<score>_change`` with ``_low``, ``_high``,
            ``_error``, ``_units`` and ``_grain``. What is not known is left out.
        """
        own = {} if self.interval is None else {end: getattr(self.interval, end) for end in ("low", "high")}
        moved = {} if self.change is None else {name: float(getattr(self.change, name)) for name in _OF_CHANGES}
        change = f"test_{score}_change"
        whole = {} if self.change is None else {change: self.change.value}
        return {f"test_{score}_{k}": v for k, v in own.items()} | whole | {f"{change}_{k}": v for k, v in moved.items()}


_OF_CHANGES = ("low", "high", "error", "units", "grain", "grouped")


def change_of(evidence: Mapping[str, float], score: str) -> Interval | None:
    """The change from full precision that ``Tested.evidence`` put into numbers.

    Args:
        evidence: The numbers.
        score: The metric's name.

    Returns:
        The change; None if the numbers are incomplete.
    """
    change = f"test_{score}_change"
    if not {change, *(f"{change}_{name}" for name in _OF_CHANGES)} <= set(evidence):
        return None
    low, high, error, units, grain, grouped = (evidence[f"{change}_{name}"] for name in _OF_CHANGES)
    return Interval(evidence[change], error, low, high, int(units), bool(grouped), grain=grain)


def score_on_test(
    task: str | Task,
    models: Iterable[nn.Module],
    *,
    seed: int,
    data: Path | str | None = None,
    fingerprint: str | None = None,
    intervals: bool = True,
) -> list[Tested]:
    """Scores of finished models on the test split; nothing may be decided by them.

    Args:
        task: A task's name, or a task.
        models: The models, on the CPU; changes are measured from the first.
        seed: The seed of the splits that they were trained with.
        data: The user's data file, as in ``prepare``.
        fingerprint: The fingerprint of the data that they were trained on, see ``Prepared.fingerprint``; None to take
            any.
        intervals: Whether to resample for intervals.

    Returns:
        The task's metric of each, with its parts and intervals.

    Raises:
        InputError: If the task's ``load`` gives other data than before.
    """
    described = task if isinstance(task, Task) else get_task(task)
    splits = load_data(described, Path(data) if data else None, seed)
    check_same_data(described, splits.fingerprint(), fingerprint)
    metric = described.score
    with of_the_user("Reading the groups of the test split", always=False):
        groups = splits.test.group_ids
    first: Answers | None = None
    found = []
    for model in models:
        read = main_output if metric.builtin else lambda outputs: outputs
        answers = Answers(*outputs_of(model, splits.test, read), groups)
        scored = score_outputs(answers.outputs, answers.targets, metric)
        own = interval(metric, answers) if intervals else None
        moved = change(metric, first, answers) if intervals and first is not None else None
        found.append(Tested(scored.value, scored.parts, own, moved))
        first = first or answers
    return found


class _Scale(Protocol):
    """What a margin must know of a metric: whether people write it in percent."""

    @property
    def fraction(self) -> bool: ...


def margin_of(metric: _Scale, asked: float | None) -> float | None:
    """The margin in the metric's unit.

    Args:
        metric: The task's metric.
        asked: As people write it: points for a metric in percent, else the metric's own unit; None: not asked.

    Returns:
        The margin; by default one point for a metric in percent, else None.
    """
    if asked is None:
        return POINT if metric.fraction else None
    return asked / 100 if metric.fraction else asked


def not_inferior(tests: Mapping[Key, Tested], metric: Metric, margin: float | None) -> dict[Key, Verdict]:
    """Test which models lose less than the margin, corrected for their number.

    Args:
        tests: Scores with their change from full precision; those without one are left out.
        metric: The task's metric.
        margin: The margin, in the metric's unit; None: nothing is tested.

    Returns:
        One verdict per model.

    Raises:
        InputError: For a margin that is not above 0.
    """  # noqa: DOC502 - raised by what it calls
    if margin is None:
        return {}
    changes = {key: test.change for key, test in tests.items() if test.change is not None}
    return verdicts(changes, margin, higher=metric.higher)


def in_words(found: Interval, metric: Metric, *, signed: bool = False) -> str:
    """An interval in words, such as ``94.1 to 96.3 % over 3 groups``."""
    scale, unit, digits = (100, " points" if signed else " %", ".2f") if metric.fraction else (1, "", ".4g")
    ends = (f"{scale * end:{'+' if signed else ''}{digits}}" for end in (found.low, found.high))
    return f"{' to '.join(ends)}{unit} over {found.units} {'groups' if found.grouped else 'samples'}"


def change_in_words(found: Interval, metric: Metric, verdict: Verdict | None = None) -> str:
    """A change with its interval, and whether it is shown to lie within the margin."""
    scale, unit, digits = (100, " points", ".2f") if metric.fraction else (1, "", ".4g")
    told = f"{scale * found.value:+{digits}}{unit} (95 % interval {in_words(found, metric, signed=True)})"
    if verdict is None:
        return told
    margin = f"{scale * verdict.margin:g}{' point' + 's' * (verdict.margin != POINT) if metric.fraction else ''}"
    proven = "non-inferior" if verdict.holds else "not shown to be non-inferior"
    return f"{told}; {proven} within a margin of {margin} (p = {verdict.adjusted:.2g})"
