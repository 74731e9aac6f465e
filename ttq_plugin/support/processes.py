"""The processes of this package, its commands and its workers: how many, and what each does first."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FrameType, ModuleType

INTEGRATIONS = frozenset({"pytorch_lightning", "deepspeed", "transformers"})
"""What NNI imports wherever it is installed, seconds long, for evaluators that our commands and workers never use."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def die_with_parent() -> None:
    """Make this worker end with its parent, so that no orphaned workers continue after the parent was killed."""
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
        numbers: The numbers of the signals, such as SIGTERM, a plain kill, or SIGHUP, a closed terminal.

    Yields:
        Nothing.
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
    own_process()
    import torch

    torch.set_num_threads(1)


def own_process() -> None:
    """Declare that this process is a command or a worker of this package, not a user's script that imports it."""
    if not any(isinstance(finder, _Spared) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Spared())
        # At its end Python looks for circles through every object of every imported library, which takes a second.
        atexit.register(gc.freeze)


class _Spared(MetaPathFinder):
    """Hides the integrations from NNI where this package imports NNI; the user's own code finds everything."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Refuse an integration, else leave the search to the others."""
        if fullname in INTEGRATIONS and _imported_by_nni_for_us(sys._getframe(1)):
            raise ModuleNotFoundError(f"{fullname} is of no use to NNI in this process", name=fullname)
        return None


def _imported_by_nni_for_us(frame: FrameType | None) -> bool:
    """Whether NNI asks for a module because a module of this package asks for NNI."""
    through_nni = False
    while frame is not None:
        root = frame.f_globals.get("__name__", "").partition(".")[0]
        if root not in {"nni", "importlib", "_frozen_importlib", "_frozen_importlib_external"}:
            return through_nni and root == "ttq_plugin"
        through_nni |= root == "nni"
        frame = frame.f_back
    return False


def machine() -> str:
    """Where process numbers mean what they mean here: one run of a kernel, and in it one namespace of processes.

    Host names are not enough, because containers and fresh cloud machines share them.

    Returns:
        A text that no other machine, container or run of this kernel has.
    """
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def born(pid: int) -> str:
    """When the process started, in the system's ticks; empty where there is no /proc, "gone" for a zombie."""
    try:
        # The command's name, in parentheses, may hold spaces: fields are counted after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "gone" if fields[0] == "Z" else fields[19]


def lives(pid: int, birth: str) -> bool:
    """Whether a process of this machine lives.

    Args:
        pid: Its number.
        birth: What ``born`` said of it; a process that got the number later has another birth.

    Returns:
        Whether that very process is there.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists, and belongs to someone else
    return born(pid) == birth
