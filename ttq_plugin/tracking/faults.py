"""Recognises errors of a store that cannot be written now, but may be later."""

from __future__ import annotations

from ttq_plugin.errors import InputError
from ttq_plugin.support.names import redact


class UnwritableError(InputError):
    """A store's folder cannot be written now; it may be later."""


def store_faults() -> tuple[type[Exception], ...]:
    """Errors of an unreachable tracking server or a full disk; MLflow must be imported already."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, RequestException, SQLAlchemyError, OSError, UnwritableError


def explain(error: BaseException) -> str:
    """The cause of such an error on one line, without the layers that MLflow wraps around it."""
    seen: set[int] = set()
    while (inner := error.__cause__ or error.__context__) is not None and id(inner) not in seen:
        seen.add(id(inner))
        error = inner
    return redact(" ".join(str(error).split()))[:200] or type(error).__name__
