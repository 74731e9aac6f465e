"""Runtimes in forked processes, where the parent's threads and locks do not work."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

import torch


class Forked(Protocol):
    """An object with threads or locks."""

    def after_fork(self) -> None:
        """Create them again."""


_LIVE: weakref.WeakSet[Forked] = weakref.WeakSet()


def follow(one: Forked) -> None:
    """Have something's ``after_fork`` called in each child process.

    Args:
        one: The object, which is not kept alive.
    """
    _LIVE.add(one)


def _renew() -> None:
    """Renew everything in a forked child process, which lacks torch's threads, so that torch would hang or fail."""
    for one in list(_LIVE):
        one.after_fork()
    if _LIVE and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
