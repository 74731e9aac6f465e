"""What happened to the trials of a study: which count, which were lost, and what each one was and gave."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.trial import TrialState

MAX_ATTEMPTS = 3
"""A trial whose worker was killed is tried this often in all; then it is the trial's fault and counts as failed."""

_STATES = {TrialState.COMPLETE: "complete", TrialState.FAIL: "failed", TrialState.PRUNED: "pruned"}


def counted(study: Any) -> int:
    """How many trials use up the search's number: handed out, and not lost to be tried again."""
    trials = study.get_trials(deepcopy=False)
    return sum(trial.state != TrialState.WAITING and not trial.user_attrs.get("again") for trial in trials)


def finished(study: Any) -> list[dict[str, Any]]:
    """Every finished trial as the keywords of a TrialRecord, in the order of their numbers.

    Trials that were lost with their worker and tried again are among them, as failed ones with that reason.

    Args:
        study: an optuna.Study.

    Returns:
        plain dictionaries; a parameter has its plain name, and is there only if the method has it.
    """
    trials = study.get_trials(deepcopy=False, states=tuple(_STATES))
    return [_record(trial) for trial in trials]


def running(study: Any) -> list[dict[str, Any]]:
    """Every trial that someone works on: number, parameters, origin, seed, started, worker."""
    keys = ("number", "parameters", "origin", "seed", "started")
    trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    records = [(_record(trial), trial.user_attrs.get("worker")) for trial in trials]
    return [{**{key: record[key] for key in keys}, "worker": worker} for record, worker in records]


def _record(trial: Any) -> dict[str, Any]:
    notes = trial.user_attrs
    # A trial killed before its worker wrote anything has Optuna's own times and names only.
    drawn = {name.rpartition(".")[2]: value for name, value in trial.params.items()}
    begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    ended = trial.datetime_complete.timestamp() if trial.datetime_complete else time.time()
    started = notes.get("started", begun)
    return {
        "number": trial.number,
        "state": _STATES.get(trial.state, "running"),
        "parameters": notes.get("parameters", drawn),
        "metrics": notes.get("metrics", {}),
        "origin": notes.get("origin", "search"),
        "seed": notes.get("seed", 0),
        "started": started,
        "seconds": notes.get("seconds", max(0.0, ended - started)),
        "reason": notes.get("reason"),
        "notes": notes.get("notes", []),
    }


def reclaim(study: Any, verdict: Callable[[Mapping[str, Any] | None], str | None], *, fault: bool) -> int:
    """Ends the running trials that nobody works on any more, and enqueues their parameters again.

    Call it under the study's ask lock: there, a running trial without a worker's name has lost its worker.

    Args:
        study: an optuna.Study.
        verdict: from a trial's worker (None: unknown) to the reason why the trial is lost, None if it is not.
        fault: whether being lost speaks against the trial (a killed worker does, an interruption does not).

    Returns:
        how many trials were lost.
    """
    lost = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        reason = verdict(trial.user_attrs.get("worker"))
        if reason is not None:
            lose(study, trial, reason, fault=fault)
            lost += 1
    return lost


def lose(study: Any, trial: Any, reason: str, *, fault: bool) -> None:
    """Ends a running trial as failed, and enqueues its parameters again unless it was killed too often.

    Args:
        study: an optuna.Study.
        trial: the running trial.
        reason: what is written down.
        fault: whether this attempt counts against the trial.
    """
    attempt = trial.user_attrs.get("attempt", 1) + fault
    again = attempt <= MAX_ATTEMPTS
    # Optuna takes attributes of running trials only: first the words, then the end. Should the trial end by itself
    # in between (its worker was slow, not dead), that end stands.
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        told = reason if again else f"{reason}, given up after {MAX_ATTEMPTS} attempts"
        study._storage.set_trial_user_attr(trial._trial_id, "reason", told)
        study._storage.set_trial_user_attr(trial._trial_id, "again", again)
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    parameters = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    if again and parameters:
        origin = trial.user_attrs.get("origin", "search")
        study.enqueue_trial(parameters, user_attrs={"origin": origin, "attempt": attempt})
