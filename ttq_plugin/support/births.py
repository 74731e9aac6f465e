"""Which process is which: numbers of processes are used again, and mean nothing on another machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def machine() -> str:
    """Where process numbers mean what they mean here: one run of a kernel, and in it one namespace of processes.

    Names of hosts do not tell: containers and fresh cloud machines share them.

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
