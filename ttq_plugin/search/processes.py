"""Whether the process that works on a trial still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def identity(name: str) -> dict[str, Any]:
    """This process, so that a later one can tell it from another that got the same number.

    Args:
        name: of the worker, unlike any other's: its crew's, a dot, and its number.

    Returns:
        what goes into the study with each trial that it works on.
    """
    pid = os.getpid()
    return {"name": name, "host": socket.gethostname(), "machine": _machine(), "pid": pid, "born": _born(pid)}


def crew_of(worker: Mapping[str, Any]) -> str:
    """The name of the crew that a worker belongs to; whoever leads it notices first how its workers end."""
    return str(worker.get("name", "")).partition(".")[0]


def alive(worker: Mapping[str, Any]) -> bool | None:
    """Whether that process lives.

    Args:
        worker: what `identity` said in it.

    Returns:
        True or False where its number means something here; None for one of another machine or container, or of this
        machine before it was started anew: of those only their heartbeats tell.
    """
    if worker.get("machine") != _machine():
        return None
    try:
        os.kill(worker["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists, and belongs to someone else
    return bool(worker["born"] == _born(worker["pid"]))


def _machine() -> str:
    """Where process numbers mean what they mean here: one run of a kernel, and in it one namespace of processes.

    Names of hosts do not tell: containers and fresh cloud machines share them.

    Returns:
        a text that no other machine, container or run of this kernel has.
    """
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _born(pid: int) -> str:
    """When the process started, in the system's ticks; empty where there is no /proc, "gone" for a zombie."""
    try:
        # The command's name, in parentheses, may hold spaces: fields are counted after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "gone" if fields[0] == "Z" else fields[19]
