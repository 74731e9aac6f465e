"""Estimates a score's uncertainty by resampling groups of samples, alone or paired with another model.

Samples of one person are alike, so a test on ten people says as much as ten independent numbers, however many samples
each of them gave. Whole groups are therefore drawn with replacement (the cluster bootstrap; Field & Welsh 2007,
Bootstrapping clustered data), and with few of them the interval uses Student's t instead of the normal distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.statistics import LEVEL
from ttq_plugin.statistics.counts import FROM_COUNTS, OF_ONE_LOGIT, Floats
from ttq_plugin.support import inputs
from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.tasks.scoring.readings import BINARY, MULTILABEL, Reading, read_classes

RESAMPLES = 2000
"""Resamples where a score follows from confusion matrices."""

FEWER = 400
"""Resamples where the metric is computed anew from the samples of each; a standard error then has 4 % of its own."""

MOST_CELLS = 20_000_000
"""The most numbers that confusion matrices of all groups may take."""

MOST_UNDEFINED = 0.05
"""The largest share of resamples in which the metric may be undefined, such as an AUROC without one of the classes."""


@dataclass(frozen=True)
class Answers:
    """A model's predictions on a split.

    Attributes:
        outputs: The model's outputs, of the whole split.
        targets: The split's targets.
        groups: The group of each sample, (samples,); None if each sample is independent.
    """

    outputs: Any
    targets: Any
    groups: NDArray[Any] | None = None

    def __len__(self) -> int:
        return inputs.batch_size(self.targets)


@dataclass(frozen=True)
class Interval:
    """An estimate with its uncertainty.

    Attributes:
        value: The value of the whole split.
        error: Standard error.
        low: Lower end of the interval.
        high: Upper end.
        units: How many groups (samples, where no groups are known) were resampled.
        grouped: Whether they are groups.
        level: Confidence level.
        grain: How far the value moves if one more sample is predicted wrongly; 0 if this is unknown.
    """

    value: float
    error: float
    low: float
    high: float
    units: int
    grouped: bool
    level: float = LEVEL
    grain: float = 0.0

    def to_dict(self) -> dict[str, float | int | bool]:
        """The same as flat JSON."""
        return dict(vars(self))


def interval(metric: Metric, answers: Answers, *, level: float = LEVEL, seed: int = 0) -> Interval | None:
    """The interval of a score.

    Args:
        metric: The metric of the score.
        answers: The model's predictions.
        level: Confidence level, in (0, 1).
        seed: Random seed of the resampling.

    Returns:
        The interval, clipped to what the metric can be; None for fewer than two groups, or where the metric is
        undefined in too many resamples.

    Raises:
        InputError: For a level outside (0, 1).
    """
    found = _resampled(metric, (answers,), seed)
    if found is None:
        return None
    values, scores, units = found
    made = _interval(values[0], scores[:, 0], units, answers.groups is not None, level)
    return replace(made, low=max(made.low, metric.low), high=min(made.high, metric.high))


def change(metric: Metric, before: Answers, after: Answers, *, level: float = LEVEL, seed: int = 0) -> Interval | None:
    """The interval of a score's change from one model to another on the same samples, which are drawn in pairs.

    Args:
        metric: The metric of the scores.
        before: The full-precision model's predictions.
        after: The compressed model's predictions.
        level: Confidence level, in (0, 1).
        seed: Random seed of the resampling.

    Returns:
        The interval of after less before, in the metric's own unit and direction; None as for ``interval``.

    Raises:
        InputError: If the two are not about the same samples, or for a level outside (0, 1).
    """
    if len(before) != len(after):
        raise InputError(
            f"A change needs two models' predictions on the same samples, got {len(before)} and {len(after)}."
        )
    found = _resampled(metric, (before, after), seed)
    if found is None:
        return None
    values, scores, units = found
    made = _interval(values[1] - values[0], scores[:, 1] - scores[:, 0], units, before.groups is not None, level)
    return replace(made, grain=_grain(metric, before))


def _grain(metric: Metric, answers: Answers) -> float:
    """The cost of one more wrong prediction, on average over the samples that are predicted correctly."""
    counted = _counted(metric, (answers,), np.zeros(len(answers), dtype=int), 1)
    if counted is None:
        return 0.0
    formula, [table] = counted
    whole, others = table[0], np.arange(len(table[0]) - 1)
    right, worse = np.diag(whole), 0.0
    for k in np.flatnonzero(right):
        moved = np.repeat(whole[None], len(others), axis=0)
        moved[:, k, k] -= 1
        moved[others, k, others + (others >= k)] += 1
        worse += right[k] * float(np.mean(np.abs(formula(moved) - formula(whole))))
    return worse / float(right.sum()) if right.any() else 0.0


def _interval(value: float, scores: Floats, units: int, grouped: bool, level: float) -> Interval:
    from scipy.stats import t

    check_level(level)
    # The bootstrap's variance of a mean is (n - 1) / n of the unbiased one, which matters for few groups.
    error = float(np.std(scores)) * math.sqrt(units / (units - 1))
    half = float(t.ppf((1 + level) / 2, units - 1)) * error
    return Interval(value, error, value - half, value + half, units, grouped, level)


def check_level(level: float) -> None:
    """Refuse a confidence level outside (0, 1).

    Args:
        level: The level.

    Raises:
        InputError: If it lies outside.
    """
    if not 0 < level < 1:
        raise InputError(f"A confidence level must lie in (0, 1), got {level}; 0.95 is usual.")


def _resampled(metric: Metric, answers: tuple[Answers, ...], seed: int) -> tuple[list[float], Floats, int] | None:
    """The models' scores on all samples; (resamples, models) on each resample; how many units were resampled."""
    first = answers[0]
    names = np.arange(len(first)) if first.groups is None else np.unique(first.groups, return_inverse=True)[1]
    units = int(names.max()) + 1 if len(names) else 0
    if units < 2:
        return None
    generator = np.random.default_rng(seed)
    if (counted := _counted(metric, answers, names, units)) is not None:
        return _from_tables(*counted, units, generator)
    return _from_samples(metric, answers, names, units, generator)


def _counted(
    metric: Metric, answers: tuple[Answers, ...], names: NDArray[Any], units: int
) -> tuple[Callable[[Floats], Floats], list[Floats]] | None:
    """The metric's formula on confusion matrices, and those of each model; None if they do not determine the metric."""
    if not metric.builtin or metric.name not in FROM_COUNTS:
        return None
    readings = [read_classes(each.outputs, each.targets) for each in answers]
    tables = [table for reading in readings if (table := _tables(reading, names, units)) is not None]
    formulas = OF_ONE_LOGIT if readings[0].kind == BINARY else FROM_COUNTS
    return (formulas[metric.name], tables) if len(tables) == len(answers) else None


def _tables(reading: Reading, names: NDArray[Any], units: int) -> Floats | None:
    """Confusion matrices (units, classes, classes); None where classes do not exclude each other, or of many."""
    classes = reading.classes
    if reading.kind == MULTILABEL or not len(reading.truth) or units * classes**2 > MOST_CELLS:
        return None
    unit = names[reading.rows.numpy()]
    cells = (unit * classes + reading.truth.numpy()) * classes + reading.predicted.numpy()
    counted = np.bincount(cells, minlength=units * classes**2).astype(float)
    return counted.reshape(units, classes, classes)


def _from_tables(
    formula: Callable[[Floats], Floats], tables: list[Floats], units: int, generator: np.random.Generator
) -> tuple[list[float], Floats, int] | None:
    shapes = [table.shape[1:] for table in tables]
    flat = np.concatenate([table.reshape(units, -1) for table in tables], axis=1)
    # Samples that stand alone come in few kinds: their numbers are drawn instead of the samples.
    kinds, counts = np.unique(flat, axis=0, return_counts=True)
    drawn = generator.multinomial(units, counts / units, size=RESAMPLES).astype(float) @ kinds
    ends = np.cumsum([0, *(rows * columns for rows, columns in shapes)])
    columns = [formula(drawn[:, a:b].reshape(-1, *s)) for a, b, s in zip(ends, ends[1:], shapes, strict=False)]
    scores = np.stack(columns, axis=1)
    scores = scores[np.isfinite(scores).all(axis=1)]  # groups of which no position counts give no score
    if len(scores) < (1 - MOST_UNDEFINED) * RESAMPLES:
        return None
    return [float(formula(table.sum(0))) for table in tables], scores, units


def _from_samples(
    metric: Metric, answers: tuple[Answers, ...], names: NDArray[Any], units: int, generator: np.random.Generator
) -> tuple[list[float], Floats, int] | None:
    members = np.split(np.argsort(names, kind="stable"), np.cumsum(np.bincount(names, minlength=units))[:-1])
    scores = []
    for _ in range(FEWER):
        rows = np.concatenate([members[unit] for unit in generator.integers(units, size=units)])
        try:
            vector = [
                float(metric.function(inputs.index(a.outputs, rows), inputs.index(a.targets, rows))) for a in answers
            ]
        except Exception:  # undefined in this resample; counted below
            continue
        if all(map(math.isfinite, vector)):
            scores.append(vector)
    if len(scores) < (1 - MOST_UNDEFINED) * FEWER:
        return None
    return [float(metric.function(a.outputs, a.targets)) for a in answers], np.asarray(scores), units
