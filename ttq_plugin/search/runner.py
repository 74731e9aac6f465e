"""The search: a study, workers, and a parent that counts, replaces the killed and keeps everything when it ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
from optuna.exceptions import StorageInternalError
from sqlalchemy.engine import make_url

from ttq_plugin.errors import InputError
from ttq_plugin.search.crew import Crew, Exit
from ttq_plugin.search.ledger import counted, finished, reclaim, running
from ttq_plugin.search.processes import alive
from ttq_plugin.search.space import Space
from ttq_plugin.search.storage import cause, is_local, lock, redact
from ttq_plugin.search.study import open_study
from ttq_plugin.search.worker import Job

Records = list[dict[str, Any]]
OnPoll = Callable[[Records, Records], None]

CRASHES_PER_WORKER = 4
"""Workers killed in a row without any trial finished in between: one more than it takes to give up on a trial."""


@dataclass(frozen=True)
class Summary:
    """How a search ended; every finished trial is in the study whatever it says."""

    study_name: str
    target: int
    complete: int
    failed: int
    lost: int
    seconds: float
    interrupted: bool = False
    error: str | None = None


def run_search(
    space: Space,
    storage: str,
    study_name: str,
    *,
    workers: int | None = None,
    trials: int | None = None,
    seed: int | None = None,
    data: str | Path | None = None,
    cache: str | Path | None = None,
    models_dir: str | Path | None = None,
    device: str = "cpu",
    resume: bool = False,
    on_poll: OnPoll | None = None,
    trial_module: str = "ttq_plugin.trial",
    poll_seconds: float = 0.5,
) -> Summary:
    """Searches until `trials` trials count, in worker processes; Ctrl-C or SIGTERM ends it with all that is finished.

    A script calls it under `if __name__ == "__main__":`, because Python runs the script once more in every worker.

    Args:
        space: what is searched.
        storage: the database URL of the study.
        study_name: the study's name.
        workers: how many processes, by default one for each core this process may use.
        trials: how many trials in all, those of a resumed study included; by default the space's number.
        seed: of every trial, by default the space's, or what a resumed study has.
        data: handed to the task.
        cache: where the task keeps full-precision models.
        models_dir: where each complete trial's weights are saved, as trial-<number>.safetensors.
        device: handed to the task.
        resume: go on with the existing study instead of making a new one.
        on_poll: called about twice a second with the finished and the running trials.
        trial_module: the module that runs trials.
        poll_seconds: the pause between two looks at the study.

    Returns:
        the counts, and whether the search was interrupted or stopped by an error.

    Raises:
        InputError: something asked for cannot be done; nothing that was finished is lost.
    """
    number, size = _positive("trials", trials, space.trials), _positive("workers", workers, _cores())
    if models_dir is not None:
        _make_folder(Path(models_dir))
    with _stop_requests() as stop:
        # Inside: a Ctrl-C in the middle of making a study would leave half of one.
        study = open_study(storage, study_name, space, resume=resume, seed=seed)
        job = Job(
            storage=storage,
            study_name=study_name,
            space=space,
            target=number,
            seed=study.user_attrs["seed"],
            data=_text(data),
            device=device,
            cache=_text(cache),
            models_dir=_text(models_dir),
            trial_module=trial_module,
        )
        try:
            return _search(study, job, _Loop(study, job, size, on_poll, poll_seconds), stop)
        except StorageInternalError as error:
            why = cause(error, make_url(storage))
            raise InputError(f"The study database {redact(storage)} failed during the search: {why}.") from None


def _search(study: Any, job: Job, loop: _Loop, stop: list[int]) -> Summary:
    begun = time.perf_counter()
    with _only_search(job):
        study.set_user_attr("space", job.space.text)  # a resumed one's ranges may differ from before
        study.set_user_attr("trials", job.target)  # for workers that join from elsewhere
        try:
            loop.run(stop)
        finally:
            loop.close()
    if loop.bad_input:
        raise InputError(loop.bad_input)
    return _summary(study, job, bool(stop), loop.error, time.perf_counter() - begun)


class _Loop:
    """The parent's turn, again and again: see who ended, see what is left to do, start who is missing, report."""

    def __init__(self, study: Any, job: Job, size: int, on_poll: OnPoll | None, pause: float) -> None:
        self.study, self.job, self.size, self.on_poll, self.pause = study, job, size, on_poll, pause
        self.crew = Crew(job)
        self.error: str | None = None
        self.bad_input: str | None = None
        self._crashes = 0
        self._finished = -1

    def run(self, stop: list[int]) -> None:
        local = is_local(self.job.storage)
        self._reclaim(lambda worker: None if worker and alive(worker, local=local) else "worker killed", fault=True)
        while not stop:
            self._notice(self.crew.reap())
            if self.error or self.bad_input or not self._staff():
                break
            self._report()
            self.crew.wait(self.pause)
        self._report()

    def close(self) -> None:
        """Ends what still runs; on a normal end there is nothing."""
        busy = len(self.crew) > 0
        self.crew.stop()
        if busy:
            self._reclaim(lambda worker: "interrupted" if self._ours(worker) else None, fault=False)

    def _ours(self, worker: Mapping[str, Any] | None) -> bool:
        return worker is None or (worker["pid"] in self.crew.pids and not alive(worker, local=False))

    def _reclaim(self, verdict: Callable[[Mapping[str, Any] | None], str | None], *, fault: bool) -> None:
        with lock(self.job.storage, self.job.study_name, "ask"):
            reclaim(self.study, verdict, fault=fault)

    def _notice(self, exits: list[Exit]) -> None:
        for end in exits:
            if end.message is not None:
                self.bad_input = end.message if end.kind == "input" else self.bad_input
                self.error = end.message if end.kind != "input" else self.error
        crashes = {end.pid: end for end in exits if end.crashed}
        if not crashes:
            return

        def verdict(worker: Mapping[str, Any] | None) -> str | None:
            if not self._ours(worker):
                return None
            end = crashes.get(worker["pid"]) if worker else None
            return f"worker killed ({end})" if end else "worker killed"

        self._reclaim(verdict, fault=True)
        self._crashes += len(crashes)
        if self._crashes >= CRASHES_PER_WORKER * self.size:
            ends = ", ".join(sorted({str(end) for end in crashes.values()}))
            self.error = f"{self._crashes} workers in a row ended without finishing a trial (the last: {ends})."

    def _staff(self) -> bool:
        """Starts the workers that are missing; False when nobody works and nothing is left."""
        # In this order: a trial handed out in between makes one worker too few until the next look, not one too many.
        busy = sum(1 for trial in running(self.study) if self._mine(trial["worker"]))
        handed = counted(self.study)
        # A live worker without a trial is about to ask for one.
        idle = len(self.crew) - busy
        for _ in range(min(self.job.target - handed - idle, self.size - len(self.crew))):
            self.crew.start()
        return len(self.crew) > 0

    def _mine(self, worker: Mapping[str, Any] | None) -> bool:
        return worker is not None and worker["pid"] in self.crew.pids

    def _report(self) -> None:
        done = finished(self.study)
        ended = sum(1 for record in done if not str(record["reason"]).startswith("worker killed"))
        if ended > self._finished:
            self._finished, self._crashes = ended, 0
        if self.on_poll is not None:
            self.on_poll(done, running(self.study))


def _summary(study: Any, job: Job, interrupted: bool, error: str | None, seconds: float) -> Summary:
    trials = study.get_trials(deepcopy=False)
    lost = sum(1 for trial in trials if trial.user_attrs.get("again"))
    states = [record["state"] for record in finished(study)]
    failed = states.count("failed") - lost
    return Summary(job.study_name, job.target, states.count("complete"), failed, lost, seconds, interrupted, error)


@contextmanager
def _only_search(job: Job) -> Iterator[None]:
    """One search a study and machine: a second one would take the first one's workers for dead.

    Args:
        job: the search's job.

    Yields:
        nothing.

    Raises:
        InputError: another process searches this study.
    """
    guard = lock(job.storage, job.study_name, "search")
    try:
        guard.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(f"Another process is searching the study {job.study_name!r} right now; let it end.") from None
    try:
        yield
    finally:
        guard.release()


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM instead of raising in the middle of a write.

    Yields:
        the list of signals that came, empty until one does.
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


def _positive(name: str, value: int | None, default: int) -> int:
    if value is not None and value < 1:
        raise InputError(f"The number of {name} must be at least 1, got {value}.")
    return default if value is None else value


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {path} for the models cannot be made: {error.strerror}.") from None
