"""The loop of a crew: see which workers ended and what is left to do, start missing workers, report progress."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import filelock
from optuna import Study
from optuna.trial import FrozenTrial

from ttq_plugin.errors import InputError
from ttq_plugin.search import keys
from ttq_plugin.search.crew.crew import Crew, Exit
from ttq_plugin.search.crew.ending import why_ended
from ttq_plugin.search.crew.job import Job
from ttq_plugin.search.crew.patience import STORAGE_FAULTS, patiently
from ttq_plugin.search.study.ledger import (
    INTERRUPTED,
    RunningTrial,
    Verdict,
    counted,
    finished,
    nobodys,
    reclaim,
    running,
)
from ttq_plugin.search.study.locks import lock
from ttq_plugin.search.study.storage import cause
from ttq_plugin.search.study.weights import collect
from ttq_plugin.tracking.records import TrialRecord

T = TypeVar("T")

OnPoll = Callable[[Sequence[TrialRecord], Sequence[RunningTrial]], None]
OnWait = Callable[[str], None]

_LAST_WORDS = 10.0
"""Seconds to record interrupted trials; a resumed search finds those that could not be recorded."""


class Loop:
    """Keeps a crew at work on a study until all is done; the search's own loop also sees to everybody else's trials.

    Args:
        study: An optuna.Study.
        job: What the workers do.
        crew: The workers.
        size: The number.
        guard: The search's lock, held; None in a crew that only joined.
        on_poll: Called with the finished and the running trials.
        on_wait: Called with what keeps the search waiting, once each time.
        pause: Seconds between two looks.
    """

    def __init__(
        self,
        study: Study,
        job: Job,
        crew: Crew,
        size: int,
        *,
        guard: Any = None,
        on_poll: OnPoll | None = None,
        on_wait: OnWait | None = None,
        pause: float = 0.5,
    ) -> None:
        self.study, self.job, self.crew, self.size, self.pause = study, job, crew, size, pause
        self.guard, self.on_poll, self.on_wait = guard, on_poll, on_wait
        self.error: str | None = None
        self.bad_input: str | None = None
        self._crashed: dict[str, Exit] = {}
        self._crashes = 0
        self._finished = -1
        self._known: dict[int, TrialRecord] = {}
        self._looked = 0.0
        self._waiting = ""

    def run(self, stop: list[int]) -> None:
        """Until the study is done, an error ends it, or something is appended to `stop`."""
        while not stop:
            if not self._patiently(self._turn, stop):
                break
            begun = time.monotonic()
            self._report(stop)
            # However long an iteration takes, the workers get most of the time.
            self.crew.wait(max(self.pause, 2 * (time.monotonic() - begun)))
        self._report(stop)

    def close(self) -> None:
        """Stop what still runs; after a normal end there is nothing."""
        busy = len(self.crew) > 0
        self.crew.stop()
        if not busy:
            return
        with contextlib.suppress(*STORAGE_FAULTS):
            patiently(lambda: self._reclaim(self._interrupted), min(_LAST_WORDS, self.job.patience))

    def _turn(self) -> bool:
        """One iteration; False when no worker is active and nothing is left to do."""
        if hasattr(self.guard, "confirm"):
            self._confirm()
        self._notice(self.crew.reap())
        if self.error or self.bad_input:
            return False
        trials = self.study.get_trials(deepcopy=False)
        working = running(self.study, trials)
        others = [trial for trial in working if not self.crew.has(trial.worker)]
        if others and time.monotonic() - self._looked > 1:
            self._reclaim(nobodys(self.study, self.crew.name))
            self._looked = time.monotonic()
        self._staff(len(working) - len(others), trials)
        return len(self.crew) > 0 or (self.guard is not None and bool(others))

    def _confirm(self) -> None:
        try:
            self.guard.confirm()
        except filelock.Timeout:
            raise InputError(
                f"Another process took over the study {self.job.study_name!r} while its database was out of reach."
            ) from None

    def _interrupted(self, trial: FrozenTrial) -> str | None:
        worker = trial.user_attrs.get(keys.WORKER)
        return INTERRUPTED if worker is None or self.crew.lost(worker) else None

    def _killed(self, trial: FrozenTrial) -> str | None:
        worker = trial.user_attrs.get(keys.WORKER)
        if worker is None:
            return INTERRUPTED  # it was not begun
        if not self.crew.lost(worker):
            return None
        end = self._crashed.get(worker["name"])
        return f"worker killed ({end})" if end else "worker killed"

    def _reclaim(self, verdict: Verdict) -> None:
        with lock(self.job.storage, self.job.study_name, "ask"):
            reclaim(self.study, verdict, self.job.space.give_up.attempts)

    def _notice(self, exits: list[Exit]) -> None:
        for end in exits:
            if end.message is not None:
                self.bad_input = end.message if end.kind == "input" else self.bad_input
                self.error = end.message if end.kind != "input" else self.error
        crashes = {end.worker: end for end in exits if end.crashed}
        self._crashed |= crashes
        self._crashes += len(crashes)
        if not self._crashed:
            return
        self._reclaim(self._killed)  # should it fail, the next look tries again
        ends = ", ".join(sorted({str(end) for end in self._crashed.values()}))
        self._crashed = {}
        if self._crashes >= self.job.space.give_up.most_crashes * self.size:
            several = "workers in a row" if self._crashes > 1 else "worker"
            self.error = f"{self._crashes} {several} ended without finishing a trial (the last: {ends})."

    def _staff(self, busy: int, trials: Sequence[FrozenTrial]) -> None:
        """Starts the workers that are missing.

        Args:
            busy: How many of ours had a trial.
            trials: The trials of the study when these were counted; of what happened since, the next look takes notice.
        """
        notes = self.study.user_attrs
        target = notes.get(keys.TRIALS, self.job.target)
        over = notes.get(keys.STOPPED) or why_ended(trials, self.job.space, target, notes.get(keys.UNTIL))
        left = 0 if over else target - counted(self.study, trials)
        # A live worker without a trial is about to ask for one.
        idle = len(self.crew) - busy
        for _ in range(min(left - idle, self.size - len(self.crew))):
            self.crew.start()

    def _report(self, stop: list[int]) -> None:
        done, working = self._patiently(self._records, stop)
        ended = sum(not str(record.reason).startswith("worker ") for record in done)
        if ended > self._finished:
            self._finished, self._crashes = ended, 0
        if self.on_poll is not None:
            self.on_poll(done, working)

    def _records(self) -> tuple[list[TrialRecord], list[RunningTrial]]:
        trials = self.study.get_trials(deepcopy=False)
        if self.guard is not None and self.job.models_dir is not None:
            collect(self.study, Path(self.job.models_dir))
        return finished(self.study, trials, self._known), running(self.study, trials)

    def _patiently(self, action: Callable[[], T], stop: list[int]) -> T:
        def wait(error: Exception) -> None:
            told = cause(error, self.job.storage)
            if self.on_wait is not None and told != self._waiting:
                self.on_wait(told)
            self._waiting = told

        result = patiently(action, self.job.patience, on_wait=wait, stop=lambda: bool(stop))
        self._waiting = ""
        return result
