"""Means of repetitions and their differences, with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.statistics import LEVEL

RESAMPLES = 10_000


@dataclass(frozen=True)
class Sample:
    """Repetitions of one number.

    Attributes:
        values: One for each repetition, in the unit of the number.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return float(np.mean(self.values))

    @property
    def std(self) -> float | None:
        """Their standard deviation (n - 1); None for a single one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    def interval(self, other: tuple[float, float] | None = None, repetitions: int = 1) -> tuple[float, float] | None:
        """Percentile bootstrap (Efron 1979), 95 %, of the mean, or of the mean less a published one.

        Our repetitions are resampled. Of a published number only mean and standard deviation are known: its mean is
        drawn from a normal distribution with their standard error.

        Args:
            other: Published mean and standard deviation; None for the mean itself.
            repetitions: The repetitions of the published number.

        Returns:
            Lower and upper bound; None for fewer than two repetitions.
        """
        if len(self.values) < 2:
            return None
        generator = np.random.default_rng(0)
        ours: NDArray[np.float64] = np.asarray(self.values)
        means = ours[generator.integers(len(ours), size=(RESAMPLES, len(ours)))].mean(axis=1)
        if other is not None:
            means = means - generator.normal(other[0], other[1] / np.sqrt(repetitions), size=RESAMPLES)
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)


def sample(values: Sequence[float | None]) -> Sample | None:
    """The repetitions that have a number; None if none has."""
    known = tuple(float(value) for value in values if value is not None)
    return Sample(known) if known else None
