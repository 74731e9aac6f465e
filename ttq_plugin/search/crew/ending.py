"""Decides when a search ends: all trials are handed out, the time is over, the grid is complete, or no progress."""

from __future__ import annotations

import time
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from ttq_plugin.fronts import hypervolume
from ttq_plugin.search.space.samplers import grid_size, handed_of_grid, waiting
from ttq_plugin.search.space.space import Space

ENOUGH = 1e-3
"""A rise of the hypervolume by less than this share of it is stagnation."""

STARTUP = 10
"""Trials that Optuna's samplers draw at random before they learn: stagnation is not looked for among them."""


def why_ended(trials: Sequence[FrozenTrial], space: Space, target: int, until: float | None) -> str | None:
    """Why no trial is handed out any more.

    Args:
        trials: All of the study's.
        space: What is searched.
        target: Trials in all.
        until: The time, in seconds since the epoch, after which no trial begins; None for no limit.

    Returns:
        "trials", "time", "grid" or "stagnation"; None while the search goes on.
    """
    if sum(trial.state != TrialState.WAITING for trial in trials) >= target:
        return "trials"
    if until is not None and time.time() >= until:
        return "time"
    if space.sampler == "grid" and handed_of_grid(trials) >= grid_size(space) and not waiting(trials):
        return "grid"
    if space.stagnation is not None and stagnates(trials, space.stagnation):
        return "stagnation"
    return None


def stagnates(trials: Sequence[FrozenTrial], patience: int) -> bool:
    """Whether the last finished trials did not raise the hypervolume of the front.

    Args:
        trials: All of the study's.
        patience: How many finished trials, in the order of their numbers.

    Returns:
        False also as long as nothing has any hypervolume.
    """
    trials = [trial for trial in trials if trial.state.is_finished()]
    if len(trials) < STARTUP + patience:
        return False
    before, now = volume(trials[:-patience]), volume(trials)
    return now > 0 and now - before < ENOUGH * now


def volume(trials: Sequence[FrozenTrial]) -> float:
    """Hypervolume of the complete trials among these that break no constraint, from 0 in every objective."""
    return hypervolume([trial.values for trial in trials if is_feasible(trial)])


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether the trial is complete and breaks no constraint."""
    return trial.state == TrialState.COMPLETE and all(value <= 0 for value in trial.constraints.values())
