"""Keeps account of a study's trials: which count, which were lost and how often, and what each one gave.

A trial that loses its worker returns to its state before it began, under its own number. Whether or how often a search
was interrupted therefore does not show in its trials, and samplers see only finished trials.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from ttq_plugin.search import keys
from ttq_plugin.search.crew.processes import alive, crew_of, orphaned
from ttq_plugin.search.study import insides
from ttq_plugin.tracking.records import Parameter, TrialRecord

_STATES = {TrialState.COMPLETE: "complete", TrialState.FAIL: "failed", TrialState.PRUNED: "pruned"}

INTERRUPTED = "interrupted"
"""The reason of a loss that does not speak against the trial: it ended with the search, or had not begun."""

KEPT = (keys.ORIGIN, keys.SEED, keys.MEMBER, keys.GRID)
"""The attributes with which a trial can be enqueued: they stay when it waits again."""

Verdict = Callable[[FrozenTrial], str | None]
"""Maps a running trial to the reason why it is lost, or None if it is not."""


@dataclass(frozen=True)
class RunningTrial:
    """A trial that a worker is running.

    Attributes:
        number: The trial's number in its study, from 0.
        parameters: The parameters that are tried.
        origin: The origin, as for a finished trial.
        seed: The seed, as for a finished trial.
        started: Its start, in seconds since the epoch.
        worker: Who works on it, see ``processes.identity``; None before its worker wrote that down.
    """

    number: int
    parameters: dict[str, Parameter]
    origin: str
    seed: int
    started: float
    worker: dict[str, Any] | None


def counted(study: Study, trials: Sequence[FrozenTrial] | None = None) -> int:
    """How many trials use up the search's number: those that were handed out and do not wait again.

    Args:
        study: An optuna.Study.
        trials: All of its trials, if they have been read just now.

    Returns:
        Their number.
    """
    return sum(trial.state != TrialState.WAITING for trial in _read(study, trials))


def losses(study: Study) -> dict[int, list[str]]:
    """The reasons for each loss of a worker, in order, by the trial's number."""
    return {int(number): list(reasons) for number, reasons in study.user_attrs.get(keys.LOSSES, {}).items()}


def _read(study: Study, trials: Sequence[FrozenTrial] | None) -> Sequence[FrozenTrial]:
    """The trials read just now, or else from the database."""
    return study.get_trials(deepcopy=False) if trials is None else trials


def finished(
    study: Study, trials: Sequence[FrozenTrial] | None = None, known: dict[int, TrialRecord] | None = None
) -> list[TrialRecord]:
    """Every finished trial, in the order of their numbers.

    Args:
        study: An optuna.Study.
        trials: All of its trials, if they have been read just now.
        known: Records by number from earlier calls, to which the new ones are added: a finished trial never changes.

    Returns:
        Their records; a parameter has its plain name, and is there only if the method has it.
    """
    known = {} if known is None else known
    ended = [trial for trial in _read(study, trials) if trial.state in _STATES]
    if new := [trial for trial in ended if trial.number not in known]:
        lost = losses(study)
        known |= {trial.number: _record(trial, lost.get(trial.number, ())) for trial in new}
    return [known[trial.number] for trial in ended]


def running(study: Study, trials: Sequence[FrozenTrial] | None = None) -> list[RunningTrial]:
    """Every trial that a worker is running.

    Args:
        study: An optuna.Study.
        trials: All of its trials, if they have been read just now.

    Returns:
        What is known of them so far.
    """
    at_work = [trial for trial in _read(study, trials) if trial.state == TrialState.RUNNING]
    records = [(_record(trial), trial.user_attrs.get(keys.WORKER)) for trial in at_work]
    return [RunningTrial(r.number, r.parameters, r.origin, r.seed, r.started, worker) for r, worker in records]


def _record(trial: FrozenTrial, lost: Sequence[str] = ()) -> TrialRecord:
    notes = trial.user_attrs
    # A trial killed before its worker wrote anything has Optuna's own times and names only.
    drawn = {name.rpartition(".")[2]: value for name, value in trial.params.items()}
    begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    ended = trial.datetime_complete.timestamp() if trial.datetime_complete else time.time()
    started = notes.get(keys.STARTED, begun)
    return TrialRecord(
        number=trial.number,
        state=_STATES.get(trial.state, "running"),
        parameters=notes.get(keys.PARAMETERS, drawn),
        metrics=notes.get(keys.METRICS, {}),
        origin=notes.get(keys.ORIGIN, "search"),
        seed=notes.get(keys.SEED, 0),
        started=started,
        seconds=notes.get(keys.SECONDS, max(0.0, ended - started)),
        reason=notes.get(keys.REASON),
        notes=[*notes.get(keys.NOTES, []), *(f"run again: {why}" for why in lost if why != INTERRUPTED)],
        violated=[text for text, violation in trial.constraints.items() if violation > 0],
        curves=notes.get(keys.CURVES, {}),
        parts=notes.get(keys.PARTS, {}),
    )


def reclaim(
    study: Study,
    verdict: Verdict,
    attempts: int,
    trials: Sequence[FrozenTrial] | None = None,
) -> int:
    """Return running trials that no worker runs any more to the waiting ones.

    Call it under the study's ask lock: there, a running trial without a worker's name has lost its worker.

    Args:
        study: An optuna.Study.
        verdict: Maps a running trial to the reason why it is lost, or None if it is not.
        attempts: How many losses a trial is given up after, not counting those of the reason INTERRUPTED.
        trials: All of its trials, if they have been read under that lock.

    Returns:
        How many trials were lost.
    """
    at_work = [trial for trial in _read(study, trials) if trial.state == TrialState.RUNNING]
    reasons = [(trial, verdict(trial)) for trial in at_work]
    return sum(lose(study, trial, reason, attempts) for trial, reason in reasons if reason is not None)


def nobodys(study: Study, crew: str = "") -> Verdict:
    """The verdict on trials whose workers belong to another crew or are gone.

    Args:
        study: An optuna.Study.
        crew: The calling crew, whose leader notices and explains how its own workers end.

    Returns:
        What `reclaim` takes.
    """
    silent: set[int] | None = None

    def verdict(trial: FrozenTrial) -> str | None:
        worker = trial.user_attrs.get(keys.WORKER)
        if worker is None:
            return INTERRUPTED  # it was not begun
        if crew and crew_of(worker) == crew:
            return None
        nonlocal silent
        lives = alive(worker)
        if lives is None and silent is None:
            silent = insides.silent(study)
        if lives is None and trial.number in (silent or ()):
            return f"worker lost (no sign of life from {worker['host']})"
        if lives is not False:
            return None
        return INTERRUPTED if orphaned(worker) else "worker killed"

    return verdict


def lose(study: Study, trial: FrozenTrial, reason: str, attempts: int) -> bool:
    """Lets a running trial wait again, or ends it as failed if it was killed too often.

    Drawn values are kept once all of them were drawn; before that, the sampler's state is unknown, so it draws again.

    Args:
        study: An optuna.Study, whose ask lock is held.
        trial: The running trial.
        reason: What is written down; any but INTERRUPTED counts against the trial.
        attempts: How often it may be killed.

    Returns:
        False if the trial finished in the meantime: its worker was slow, not dead.
    """
    before = losses(study).get(trial.number, [])
    against = sum(why != INTERRUPTED for why in [*before, reason])
    note = (keys.LOSSES, partial(_with_loss, str(trial.number), reason))
    if reason != INTERRUPTED and against >= attempts:
        told = f"{reason}, given up after {attempts} attempt{'s' if attempts > 1 else ''}"
        return insides.give_up(study, trial, reason=told, note=note)
    return insides.put_back(study, trial, forget=keys.PARAMETERS not in trial.user_attrs, keep=KEPT, note=note)


def _with_loss(number: str, reason: str, known: dict[str, list[str]] | None) -> dict[str, list[str]]:
    known = known or {}
    return {**known, number: [*known.get(number, []), reason]}
