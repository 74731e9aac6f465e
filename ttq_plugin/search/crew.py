"""The search's worker processes: started, noticed when they end, ended when the search does."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from typing import Any

from ttq_plugin.search.worker import STOP, Job, worker_main


@dataclass(frozen=True)
class Exit:
    """How a worker ended: its exit code (minus a signal's number), and what it said, if anything."""

    pid: int
    code: int
    kind: str | None = None
    message: str | None = None

    @property
    def crashed(self) -> bool:
        """Whether it ended without a word and before its work was done."""
        return self.code not in {0, STOP}

    def __str__(self) -> str:
        return f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}"


class Crew:
    """Worker processes on one job; started by spawn, because a forked process cannot use torch's threads or CUDA."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.pids: set[int] = set()
        self._live: dict[int, tuple[Any, Any]] = {}

    def __len__(self) -> int:
        return len(self._live)

    def start(self) -> None:
        """One more worker."""
        context = multiprocessing.get_context("spawn")
        reading, writing = context.Pipe(duplex=False)
        process = context.Process(target=worker_main, args=(self.job, writing))
        with _no_interrupt():
            process.start()
        # Ours is closed at once: the pipe then ends with the worker, and reading it never waits for a dead one.
        writing.close()
        assert process.pid is not None
        self.pids.add(process.pid)
        self._live[process.pid] = (process, reading)

    def wait(self, seconds: float) -> None:
        """Until a worker ends, at most that long."""
        sentinels = [process.sentinel for process, _ in self._live.values()]
        if sentinels:
            connection.wait(sentinels, timeout=seconds)
        else:
            time.sleep(seconds)

    def reap(self) -> list[Exit]:
        """The workers that have ended since the last call."""
        ended = [pid for pid, (process, _) in self._live.items() if process.exitcode is not None]
        return [self._end(pid) for pid in ended]

    def stop(self, patience: float = 5) -> None:
        """Ends every worker, by force where asking does not help; a killed one's writes are whole or not there."""
        for process, _ in self._live.values():
            process.terminate()
        until = time.monotonic() + patience
        for process, _ in self._live.values():
            process.join(max(0.0, until - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        self.reap()

    def _end(self, pid: int) -> Exit:
        process, reading = self._live.pop(pid)
        kind = message = None
        try:
            if reading.poll():
                kind, message = reading.recv()
        except (EOFError, OSError):
            pass  # it ended without a word, or in the middle of one
        code = process.exitcode
        reading.close()
        process.close()
        return Exit(pid, code, kind, message)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Blocks Ctrl-C while a worker starts: it inherits the block, and has no chance to ignore the signal any earlier.

    Ours is delivered afterwards, not lost. The tracker is started first because starting it lifts every such block.

    Yields:
        nothing.
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
