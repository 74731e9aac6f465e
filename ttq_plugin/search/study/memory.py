"""Selects what a sampler learns from in a large study: its front and its latest trials."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

MOST = 1000
"""Finished trials that a sampler is shown; the time for a draw grows with them, and what it learns hardly does."""


def remembered(trials: Sequence[FrozenTrial], most: int = MOST) -> list[FrozenTrial]:
    """The trials that a sampler is shown.

    Args:
        trials: All trials of a study, in the order of their numbers.
        most: How many of the finished ones.

    Returns:
        All of them where they are few enough; else those at work, the members of the front, the latest of them if even
        they are too many, and the latest others, in the order of their numbers. It depends on the trials alone.
    """
    ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    if len(ended) <= most:
        return list(trials)
    members = _front(ended)[-most // 2 :]
    chosen = {trial.number for trial in members}
    others = [trial for trial in ended if trial.number not in chosen]
    chosen |= {trial.number for trial in others[len(chosen) - most :]}
    return [trial for trial in trials if trial.number in chosen or trial.state == TrialState.RUNNING]


def _front(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The complete trials that keep every constraint and that no other of them dominates."""
    import moocore

    fit = [trial for trial in trials if trial.state == TrialState.COMPLETE and _keeps_all(trial)]
    if not fit:
        return []
    best = moocore.is_nondominated([trial.values for trial in fit], maximise=True, keep_weakly=True)
    return [trial for trial, is_best in zip(fit, best, strict=True) if is_best]


def _keeps_all(trial: FrozenTrial) -> bool:
    return all(violation <= 0 for violation in trial.constraints.values())
