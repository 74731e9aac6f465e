"""Starts the search's worker processes, notices when they end, and stops them at the end of the search."""

from __future__ import annotations

import multiprocessing
import signal
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import connection, resource_tracker
from typing import Any

from ttq_plugin.search.crew.job import Job
from ttq_plugin.search.crew.processes import crew_of
from ttq_plugin.search.crew.worker import STOP, worker_main


@dataclass(frozen=True)
class Exit:
    """How a worker ended: its exit code (minus a signal's number), what it said, and what others say, if anything."""

    worker: str
    code: int
    kind: str | None = None
    message: str | None = None
    how: str | None = None

    @property
    def crashed(self) -> bool:
        """Whether it ended without a message before its work was done."""
        return self.code not in {0, STOP}

    def __str__(self) -> str:
        return self.how or (f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}")


class Crew(ABC):
    """Workers on one job; each has a name that begins with the crew's, unlike any other's anywhere."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.name = uuid.uuid4().hex
        self._started = 0
        self._live: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._live)

    def start(self) -> None:
        """One more worker."""
        name = f"{self.name}.{self._started}"
        self._started += 1
        self._live[name] = self._start(replace(self.job, worker=name))

    def has(self, worker: Mapping[str, Any] | None) -> bool:
        """Whether the worker that a trial names is, or was, one of this crew."""
        return worker is not None and crew_of(worker) == self.name

    def lost(self, worker: Mapping[str, Any] | None) -> bool:
        """Whether it was one of this crew, and has ended."""
        return worker is not None and self.has(worker) and worker["name"] not in self._live

    def reap(self) -> list[Exit]:
        """The workers that have ended since the last call."""
        exits = [end for name, worker in self._live.items() if (end := self._end(name, worker)) is not None]
        for end in exits:
            del self._live[end.worker]
        return exits

    @abstractmethod
    def _start(self, job: Job) -> Any:
        """Start a worker on that job."""

    @abstractmethod
    def _end(self, name: str, worker: Any) -> Exit | None:
        """How the worker ended; None while it lives."""

    @abstractmethod
    def wait(self, seconds: float) -> None:
        """Until a worker ends, at most that long."""

    @abstractmethod
    def stop(self) -> None:
        """Stop every worker, by force if it does not stop when asked."""


class Processes(Crew):
    """Processes of this machine; started by spawn, because a forked process cannot use torch's threads or CUDA."""

    def _start(self, job: Job) -> tuple[Any, Any]:
        context = multiprocessing.get_context("spawn")
        reading, writing = context.Pipe(duplex=False)
        process = context.Process(target=worker_main, args=(job, writing))
        with _no_interrupt():
            process.start()
        # Ours is closed at once: the pipe then ends with the worker, and reading it never waits for a dead one.
        writing.close()
        return process, reading

    def wait(self, seconds: float) -> None:
        """Until a worker ends, at most that long."""
        sentinels = [process.sentinel for process, _ in self._live.values()]
        if sentinels:
            connection.wait(sentinels, timeout=seconds)
        else:
            time.sleep(seconds)

    def stop(self, patience: float = 5) -> None:
        """Stop every worker, by force if necessary; what a killed worker wrote is complete or absent."""
        for process, _ in self._live.values():
            process.terminate()
        until = time.monotonic() + patience
        for process, _ in self._live.values():
            process.join(max(0.0, until - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        self.reap()

    def _end(self, name: str, worker: Any) -> Exit | None:
        process, reading = worker
        code = process.exitcode
        if code is None:
            return None
        kind = message = None
        try:
            if reading.poll():
                kind, message = reading.recv()
        except (EOFError, OSError):
            pass  # it ended without a word, or in the middle of one
        reading.close()
        process.close()
        return Exit(name, code, kind, message)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Blocks Ctrl-C while a worker starts: it inherits the block, and has no chance to ignore the signal any earlier.

    Ours is delivered afterwards, not lost. The tracker is started first because starting it lifts every such block.

    Yields:
        Nothing.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
