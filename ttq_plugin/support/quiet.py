"""Keeps libraries from sending telemetry and from printing into our output, and silences progress on request."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A server that is gone is found out in seconds, not in the default's minutes: the search tries again later.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # The clients never draw a progress bar into the search's own.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def quiet_mlflow() -> None:
    """To be called before MLflow is imported; what the user has set stays."""
    for name, value in MLFLOW.items():
        os.environ.setdefault(name, value)


_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


def is_quiet() -> bool:
    """Whether progress is unwanted."""
    return _QUIET.get()


@contextmanager
def silenced(quiet: bool = True) -> Iterator[None]:
    """Show no progress within the block.

    Args:
        quiet: Whether progress is unwanted; False for progress even within another such block.

    Yields:
        Nothing.
    """
    token = _QUIET.set(quiet)
    try:
        yield
    finally:
        _QUIET.reset(token)
