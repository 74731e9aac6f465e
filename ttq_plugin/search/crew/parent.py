"""The parent process of a search: announces the study, counts trials, replaces killed workers, and summarises."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import filelock
from optuna import Study
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from ttq_plugin.errors import InputError
from ttq_plugin.search import keys
from ttq_plugin.search.crew.ending import why_ended
from ttq_plugin.search.crew.engines import Engine
from ttq_plugin.search.crew.job import Job
from ttq_plugin.search.crew.loop import Loop
from ttq_plugin.search.crew.patience import STORAGE_FAULTS
from ttq_plugin.search.crew.processes import end_orphan
from ttq_plugin.search.study.ledger import counted, finished, losses, nobodys, reclaim
from ttq_plugin.search.study.locks import Lock, lock
from ttq_plugin.search.study.storage import cause
from ttq_plugin.search.study.study import digest_of
from ttq_plugin.search.study.weights import expect
from ttq_plugin.support.names import redact, shell
from ttq_plugin.support.release import release
from ttq_plugin.tracking.remake import inputs_of


@dataclass(frozen=True)
class Summary:
    """How a search ended. Every finished trial is in the study, however the search ended.

    Attributes:
        study_name: The study's name.
        target: Number of trials asked for.
        complete: Number of trials with all their objectives.
        failed: Number of trials that failed for good.
        lost: How often a trial was lost together with its worker.
        seconds: Wall time.
        interrupted: Whether a signal ended the search.
        error: The error that stopped the search, if there was one.
        pruned: Number of trials that were ended early.
        saved: Seconds of training that these trials did not need, over all workers.
        ended: What ended the search: "trials", "time", "grid" or "stagnation"; None if a signal or an error did.
    """

    study_name: str
    target: int
    complete: int
    failed: int
    lost: int
    seconds: float
    interrupted: bool = False
    error: str | None = None
    pruned: int = 0
    saved: float = 0.0
    ended: str | None = None


def run_job(study: Study, job: Job, place: Engine, size: int, stop: list[int], **looks: Any) -> Summary:
    """Runs workers on an open study until the job is done or `stop` is no longer empty.

    Args:
        study: An optuna.Study.
        job: What the workers do.
        place: Where the workers run.
        size: The number of workers.
        stop: Filled by `stop_requests`.
        **looks: `on_poll`, `on_wait` and `pause` of the loop.

    Returns:
        How it ended.

    Raises:
        InputError: See `run_search`.
    """

    def loop(guard: Lock) -> Loop:
        return Loop(study, job, place.crew(job), size, guard=guard, **looks)

    with told(job.storage):
        return _search(study, job, loop, stop)


@contextmanager
def told(storage: str, *more: type[Exception]) -> Iterator[None]:
    """Turn a database error into one sentence, where nothing waits for the fault to pass.

    Args:
        storage: The database URL.
        *more: Other exceptions that are the database's fault here.

    Yields:
        Nothing.

    Raises:
        InputError: If the database fails.
    """
    faults: tuple[type[Exception], ...] = (StorageInternalError, SQLAlchemyError, *more)
    try:
        yield
    except faults as error:
        why = cause(error, storage)
        raise InputError(f"The study database {redact(storage)} failed during the search: {why}.") from None


def _announce(study: Study, job: Job) -> None:
    """Publish the search for workers here and elsewhere, and reclaim the trials of earlier workers."""
    for key, value in {
        keys.SPACE: job.space.text,  # a resumed one's ranges may differ from before
        keys.INPUTS: inputs_of(job.data, job.cache, job.weights, job.device),
        keys.WEIGHTS: digest_of(job.weights),
        keys.FINGERPRINT: job.fingerprint,
        keys.RELEASE: release(),
        keys.HEARTBEAT: job.heartbeat,
        keys.MODELS: job.models_dir is not None,  # for workers that join from elsewhere, as the next ones are
        keys.TRIALS: job.target,
        keys.UNTIL: None if job.space.timeout is None else time.time() + job.space.timeout,
        keys.STOPPED: False,
    }.items():
        study.set_user_attr(key, value)
    expect(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        end_orphan(trial.user_attrs.get(keys.WORKER, {}))
    with lock(job.storage, job.study_name, "ask"):
        reclaim(study, nobodys(study), job.space.give_up.attempts)


def _search(study: Study, job: Job, loop: Callable[[Lock], Loop], stop: list[int]) -> Summary:
    begun = time.perf_counter()
    with _only_search(job) as guard:
        with told(job.storage, OSError):
            _announce(study, job)
        turns = loop(guard)
        try:
            turns.run(stop)
        finally:
            with contextlib.suppress(*STORAGE_FAULTS):
                # A search that a user ended must not continue, here or elsewhere.
                study.set_user_attr(keys.STOPPED, counted(study) < job.target)
            turns.close()
        if turns.bad_input:
            raise InputError(turns.bad_input)
        return _summary(study, job, bool(stop), turns.error, time.perf_counter() - begun)


def _summary(study: Study, job: Job, interrupted: bool, error: str | None, seconds: float) -> Summary:
    trials = study.get_trials(deepcopy=False)
    lost = sum(len(reasons) for reasons in losses(study).values())
    states = [record.state for record in finished(study)]
    return Summary(
        study_name=job.study_name,
        target=job.target,
        complete=states.count("complete"),
        failed=states.count("failed"),
        lost=lost,
        seconds=seconds,
        interrupted=interrupted,
        error=error,
        pruned=states.count("pruned"),
        saved=sum(trial.user_attrs.get(keys.SAVED, 0.0) for trial in trials),
        ended=None if interrupted or error else why_ended(trials, job.space, job.target, study.user_attrs[keys.UNTIL]),
    )


@contextmanager
def _only_search(job: Job) -> Iterator[Lock]:
    """Allow only one search per study, because two would write the same trials to MLflow.

    Args:
        job: The search's job.

    Yields:
        The lock.

    Raises:
        InputError: Another process searches this study.
    """
    guard = lock(job.storage, job.study_name, "search")
    with told(job.storage, OSError):
        try:
            guard.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(
                f"Another process is searching the study {job.study_name!r} right now; wait until it ends, or join "
                f"it with `{shell(['ttq', 'worker', '--storage', redact(job.storage), '--study', job.study_name])}`."
            ) from None
    try:
        yield guard
    finally:
        guard.release()


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM instead of raising in the middle of a write.

    Yields:
        The list of signals that came, empty until one does.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: asked.append(number)) for number in signals]
    try:
        yield asked
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
