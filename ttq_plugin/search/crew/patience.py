"""Retries for a while what fails because of the machine (a full disk, a restarting server)."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

PATIENCE = 900.0
"""Seconds that a search and its workers wait for their database and disk before they give up."""

STORAGE_FAULTS = (StorageInternalError, SQLAlchemyError, sqlite3.Error, OSError)
"""Exceptions that mean that a database cannot be reached or written."""

_LONGEST_PAUSE = 5.0

T = TypeVar("T")


def patiently(
    action: Callable[[], T],
    seconds: float,
    *,
    faults: tuple[type[Exception], ...] = STORAGE_FAULTS,
    passes: Callable[[Exception], bool] = lambda error: True,
    pause: float = 0.25,
    on_wait: Callable[[Exception], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> T:
    """The action's result; the action is repeated, with pauses, as long as it fails with one of the faults.

    Args:
        action: What to do; it must be safe to repeat, because a failed attempt may have been half done.
        seconds: How long to keep trying.
        faults: The errors that may pass.
        passes: Whether one of them may; others are raised at once.
        pause: Seconds before the second attempt; each further pause is twice as long, up to five seconds.
        on_wait: Called with the error before each pause.
        stop: Asked before each pause; True ends the waiting.

    Returns:
        What the action returns.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return action()
        except faults as error:
            left = until - time.monotonic()
            if left <= 0 or stop() or not passes(error):
                raise
            if on_wait is not None:
                on_wait(error)
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)
