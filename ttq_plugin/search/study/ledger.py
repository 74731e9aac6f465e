"""What happened to the trials of a study: which count, which were lost, and what each one was and gave."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from ttq_plugin.search.crew.processes import alive, crew_of

MAX_ATTEMPTS = 3
"""A trial whose worker was killed is tried this often in all; then it is the trial's fault and counts as failed."""

_STATES = {TrialState.COMPLETE: "complete", TrialState.FAIL: "failed", TrialState.PRUNED: "pruned"}


INTERRUPTED = "interrupted"
"""The reason of a loss that does not speak against the trial."""

GONE = ("worker killed", "worker gone")
"""How the reason of a loss begins that may be the trial's fault."""


KEPT = ("origin", "seed", "member", "grid")
"""What a lost trial's attributes say of it that must hold for its next attempt too."""


def is_lost(trial: Any) -> bool:
    """Whether the trial ended with its worker, and was or will be handed out again."""
    return trial.state == TrialState.FAIL and bool(trial.user_attrs.get("again"))


def counted(study: Any, trials: Sequence[Any] | None = None) -> int:
    """How many trials use up the search's number: handed out, and not lost to be tried again.

    Args:
        study: an optuna.Study.
        trials: all of its trials, if they have been read just now.

    Returns:
        their number.
    """
    return sum(trial.state != TrialState.WAITING and not is_lost(trial) for trial in _read(study, trials))


def _read(study: Any, trials: Sequence[Any] | None) -> Sequence[Any]:
    """The trials read just now, or else from the database."""
    found: Sequence[Any] = study.get_trials(deepcopy=False) if trials is None else trials
    return found


def finished(study: Any, trials: Sequence[Any] | None = None) -> list[dict[str, Any]]:
    """Every finished trial as the keywords of a TrialRecord, in the order of their numbers.

    Trials that were lost with their worker and tried again are among them, as failed ones with that reason.

    Args:
        study: an optuna.Study.
        trials: all of its trials, if they have been read just now.

    Returns:
        plain dictionaries; a parameter has its plain name, and is there only if the method has it.
    """
    return [_record(trial) for trial in _read(study, trials) if trial.state in _STATES]


def running(study: Any, trials: Sequence[Any] | None = None) -> list[dict[str, Any]]:
    """Every trial that someone works on.

    Args:
        study: an optuna.Study.
        trials: all of its trials, if they have been read just now.

    Returns:
        their number, parameters, origin, seed, started, worker.
    """
    keys = ("number", "parameters", "origin", "seed", "started")
    at_work = [trial for trial in _read(study, trials) if trial.state == TrialState.RUNNING]
    records = [(_record(trial), trial.user_attrs.get("worker")) for trial in at_work]
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
        "violated": [text for text, violation in trial.constraints.items() if violation > 0],
        "curves": notes.get("curves", {}),
        "parts": notes.get("parts", {}),
    }


def reclaim(study: Any, verdict: Callable[[Any], str | None], trials: Sequence[Any] | None = None) -> int:
    """Ends the running trials that nobody works on any more, and enqueues their parameters again.

    Call it under the study's ask lock: there, a running trial without a worker's name has lost its worker.

    Args:
        study: an optuna.Study.
        verdict: from a running trial to the reason why it is lost, None if it is not.
        trials: all of its trials, if they have been read under that lock.

    Returns:
        how many trials were lost.
    """
    trials = _read(study, trials)
    lost = 0
    for trial in [trial for trial in trials if trial.state == TrialState.RUNNING]:
        reason = verdict(trial)
        if reason is not None:
            _end_lost(study, trial, reason)
            lost += 1
    _enqueue_lost(study, study.get_trials(deepcopy=False) if lost else trials)
    return lost


def nobodys(study: Any, crew: str = "") -> Callable[[Any], str | None]:
    """The verdict on trials whose workers belong to somebody else, or to nobody.

    Args:
        study: an optuna.Study.
        crew: the asking crew: its own workers' ends are noticed, and explained, by whoever leads it.

    Returns:
        what `reclaim` takes.
    """
    silent: set[int] | None = None

    def verdict(trial: Any) -> str | None:
        worker = trial.user_attrs.get("worker")
        if worker is None or not worker.get("name"):
            return "worker killed"
        if crew and crew_of(worker) == crew:
            return None
        nonlocal silent
        lives = alive(worker)
        if lives is None and silent is None:
            silent = set(study._storage._get_stale_trial_ids(study._study_id))
        if lives is None and trial._trial_id in (silent or ()):
            return f"worker gone (no sign of life of {worker['host']})"
        return "worker killed" if lives is False else None

    return verdict


def lose(study: Any, trial: Any, reason: str) -> None:
    """Ends a running trial as failed, and enqueues its parameters again unless it was killed too often.

    Args:
        study: an optuna.Study, whose ask lock is held.
        trial: the running trial.
        reason: what is written down; any but INTERRUPTED counts against the trial.
    """
    _end_lost(study, trial, reason)
    _enqueue_lost(study, study.get_trials(deepcopy=False))


def _end_lost(study: Any, trial: Any, reason: str) -> None:
    attempt = trial.user_attrs.get("attempt", 1) + (reason != INTERRUPTED)
    again = attempt <= MAX_ATTEMPTS
    # Optuna takes attributes of running trials only: first the words, then the end. Should the trial end by itself
    # in between (its worker was slow, not dead), that end stands.
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        told = reason if again else f"{reason}, given up after {MAX_ATTEMPTS} attempts"
        study._storage.set_trial_user_attr(trial._trial_id, "reason", told)
        study._storage.set_trial_user_attr(trial._trial_id, "again", attempt if again else 0)
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _enqueue_lost(study: Any, trials: Sequence[Any]) -> None:
    """Enqueues what was lost and is not enqueued yet, also where a predecessor was killed before it could."""
    tried_again = {trial.user_attrs.get("again_of") for trial in trials}
    for trial in trials:
        parameters = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if is_lost(trial) and parameters and trial.number not in tried_again:
            kept = {name: value for name, value in trial.user_attrs.items() if name in KEPT}
            known = {"origin": "search", **kept, "attempt": trial.user_attrs["again"], "again_of": trial.number}
            study.enqueue_trial(parameters, user_attrs=known)
