"""Finds out whether the process that works on a trial is still alive."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

from ttq_plugin.support.processes import born as _born
from ttq_plugin.support.processes import lives as _lives
from ttq_plugin.support.processes import machine as _machine


def identity(name: str) -> dict[str, Any]:
    """This process, so that a later one can tell it from another that got the same number.

    Args:
        name: Name of the worker, unlike any other's: its crew's, a dot, and its number.

    Returns:
        What goes into the study with each trial that it works on; `leader` is the process that started this one.
    """
    pid = os.getpid()
    own = {"name": name, "host": socket.gethostname(), "machine": _machine(), "pid": pid, "born": _born(pid)}
    return {**own, "leader": _leader(pid)}


@cache
def _leader(pid: int) -> dict[str, Any] | None:
    """The process that started this one, as it was when it was first asked for."""
    parent = multiprocessing.parent_process()
    return None if parent is None or parent.pid is None else {"pid": parent.pid, "born": _born(parent.pid)}


def crew_of(worker: Mapping[str, Any]) -> str:
    """The name of the crew that a worker belongs to; whoever leads it notices first how its workers end."""
    return str(worker.get("name", "")).partition(".")[0]


def alive(worker: Mapping[str, Any]) -> bool | None:
    """Whether that process lives.

    Args:
        worker: What `identity` said in it.

    Returns:
        True or False where its number means something here; None for one of another machine or container, or of this
        machine before it was started anew: of those only their heartbeats tell.
    """
    if worker.get("machine") != _machine():
        return None
    return _lives(worker["pid"], worker["born"])


def orphaned(worker: Mapping[str, Any]) -> bool:
    """Whether the worker's leader, a process of this machine, has ended: the worker then ended, or will, with it."""
    leader = worker.get("leader")
    if leader is None or worker.get("machine") != _machine():
        return False
    return not _lives(leader["pid"], leader["born"])


def end_orphan(worker: Mapping[str, Any], patience: float = 30.0) -> None:
    """Make sure that a worker whose leader has ended does no more: it may not have noticed yet.

    Args:
        worker: What `identity` said in it.
        patience: Seconds to wait for its end.
    """
    if not orphaned(worker):
        return
    until = time.monotonic() + patience
    while alive(worker) and time.monotonic() < until:
        try:
            os.kill(worker["pid"], signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # it ended by itself, or is another user's and will
        time.sleep(0.01)
