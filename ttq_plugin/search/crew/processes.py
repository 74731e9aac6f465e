"""Whether the process that works on a trial still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from ttq_plugin.support.births import born as _born
from ttq_plugin.support.births import lives as _lives
from ttq_plugin.support.births import machine as _machine


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
    return _lives(worker["pid"], worker["born"])
