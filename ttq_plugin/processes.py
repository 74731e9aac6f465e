"""Worker processes of this package: how many, and what each does first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def die_with_parent() -> None:
    """A parent killed outright must not leave workers behind that go on with results nobody reads."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def ended_alike() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does: an end without exceptions stops no worker and frees no semaphore.

    Yields:
        nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def become_worker() -> None:
    """Leave Ctrl-C to the parent, end with it, and compute in one thread: there are as many workers as cores."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    import torch

    torch.set_num_threads(1)
