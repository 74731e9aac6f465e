"""Worker processes of this package: how many, and what each does first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
def ended_like_ctrl_c(*numbers: int) -> Iterator[None]:
    """Let signals end the block as Ctrl-C does: their own end raises nothing, so it stops and frees nothing.

    Args:
        numbers: of the signals, such as SIGTERM, a plain kill, or SIGHUP, a closed terminal.

    Yields:
        nothing.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Only the main thread may set handlers; elsewhere the caller ends what it started.
    allowed = numbers if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.signal(number, interrupt) for number in allowed}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def become_worker() -> None:
    """Leave Ctrl-C to the parent, end with it, and compute in one thread: there are as many workers as cores."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    import torch

    torch.set_num_threads(1)
