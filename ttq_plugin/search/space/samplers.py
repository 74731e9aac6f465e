"""The samplers that propose trials: Optuna's, seeded anew for each trial, or a grid."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import optuna
from numpy.random import SeedSequence
from optuna.trial import FrozenTrial, TrialState

from ttq_plugin.errors import InputError
from ttq_plugin.search import keys

SAMPLERS = {
    "tpe": "tree-structured Parzen estimator; the best choice for several objectives",
    "gp": "Gaussian processes; models only the parameters that all methods share, and costs about 100 times as much",
    "nsga2": "genetic algorithm for searches of hundreds of trials; its proposals depend on the number of trials",
    "random": "independent draws",
    "grid": "every combination of the `points` values of each range, one method after the other, in shuffled order",
}
"""The samplers by name."""


class Gridded(Protocol):
    """What of a search space a grid is made from."""

    @property
    def sampler(self) -> str:
        """A key of `SAMPLERS`."""

    @property
    def methods(self) -> Mapping[str, object]:
        """The methods by name."""

    def grid(self, method: str) -> dict[str, list[float | int]]:
        """The values of each parameter that a method varies."""


LARGEST_GRID = 100_000
"""Largest number of combinations; a larger grid is a mistake and would not fit into memory."""


def make_sampler(name: str, seed: int, number: int, trials: int) -> optuna.samplers.BaseSampler:
    """A sampler for one trial, seeded by the study's seed and the trial's number.

    A sampler seeded once a process would draw the same "random" trials again after a resume or in the place of a killed
    worker. This way a search by one worker gives the same trials however often it was stopped: a trial that was lost
    keeps its number, and every trial before it has been finished.

    Args:
        name: A key of `SAMPLERS`; a trial of a grid has all its values already.
        seed: The study's seed.
        number: The trial's number.
        trials: The trials of the whole search.

    Returns:
        An Optuna sampler, with Optuna's defaults but for NSGA-II's population: its 50 would be one random generation
        in most searches, a fifth of the trials gives four or more.
    """
    own = int(SeedSequence([seed, number]).generate_state(1)[0])
    if name == "gp":
        return optuna.samplers.GPSampler(seed=own, warn_independent_sampling=False)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=own, population_size=min(50, max(8, trials // 5)))
    if name in {"random", "grid"}:
        return optuna.samplers.RandomSampler(seed=own)
    return optuna.samplers.TPESampler(seed=own)


def grid(space: Gridded, seed: int) -> list[dict[str, Any]]:
    """Every combination of the grid, as fixed parameters for `study.enqueue_trial`.

    Args:
        space: What is searched.
        seed: Random seed of the order: a part of the grid is then spread over all of it.

    Returns:
        The combinations; each method has those of its own parameters and of the shared ones that it uses.
    """
    combinations: list[dict[str, Any]] = []
    for method in space.methods:
        values = space.grid(method)
        fixed = {"method": method} if len(space.methods) > 1 else {}
        combinations += [{**fixed, **dict(zip(values, c, strict=True))} for c in itertools.product(*values.values())]
    random.Random(seed).shuffle(combinations)
    return combinations


def grid_size(space: Gridded) -> int:
    """How many combinations the grid has."""
    return sum(math.prod(len(values) for values in space.grid(method).values()) for method in space.methods)


def check_grid(space: Gridded) -> None:
    """Check that a grid is small enough to be searched.

    Args:
        space: What is to be searched.

    Raises:
        InputError: If it has too many combinations.
    """
    if space.sampler == "grid" and (size := grid_size(space)) > LARGEST_GRID:
        raise InputError(
            f"A grid may have {LARGEST_GRID} combinations, got {size}; give ranges fewer points, or make some constant."
        )


def handed_of_grid(trials: Sequence[FrozenTrial]) -> int:
    """How many of the grid's combinations have become trials."""
    return sum(keys.GRID in trial.user_attrs for trial in trials)


def waiting(trials: Sequence[FrozenTrial]) -> bool:
    """Whether parameters are enqueued that no trial has taken."""
    return any(trial.state == TrialState.WAITING for trial in trials)


def next_number(trials: Sequence[FrozenTrial]) -> int:
    """The number of the trial that Optuna hands out next: of the first one that waits, else of a new one."""
    return min((trial.number for trial in trials if trial.state == TrialState.WAITING), default=len(trials))
