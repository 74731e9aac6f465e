"""Whether the process that works on a trial still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def identity() -> dict[str, Any]:
    """This process, so that a later one can tell it from another that got the same number."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}


def alive(worker: Mapping[str, Any], *, local: bool) -> bool:
    """Whether that process lives.

    Args:
        worker: what `identity` said in it.
        local: it can only have run on this machine, whatever its host was called then (a container's name changes).

    Returns:
        False where it is certainly gone; True also for another machine's, of which nothing can be known here.
    """
    if not local and worker["host"] != socket.gethostname():
        return True
    try:
        os.kill(worker["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists, and belongs to someone else
    return bool(worker["born"] == _born(worker["pid"]))


def _born(pid: int) -> str:
    """When the process started, in the system's ticks; empty where there is no /proc, "gone" for a zombie."""
    try:
        # The command's name, in parentheses, may hold spaces: fields are counted after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "gone" if fields[0] == "Z" else fields[19]
