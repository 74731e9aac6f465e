"""Locks among the processes that work on one study: of one machine, or of all that reach the PostgreSQL server."""

from __future__ import annotations

import hashlib
import tempfile
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import sqlalchemy
from filelock import FileLock, Timeout
from sqlalchemy.engine import make_url

from ttq_plugin.search.study.storage import connect_options, is_local

_PATIENCE = 300
"""Seconds to wait for a lock that others hold only briefly."""


def lock(storage: str, study_name: str, purpose: str) -> Lock:
    """A lock that its owner's death frees: PostgreSQL's own where the study lies there, else one in the file system.

    Args:
        storage: The database URL.
        study_name: The study's name.
        purpose: What is locked of it.

    Returns:
        A context manager with `acquire(timeout=...)`, `release()` and, of PostgreSQL's, `confirm()`.
    """
    digest = hashlib.sha256(f"{study_name} {purpose}".encode()).digest()
    url = make_url(storage)
    if url.get_backend_name() == "postgresql":
        return ServerLock(storage, int.from_bytes(digest[:8], signed=True))
    name = hashlib.sha256(study_name.encode()).hexdigest()[:12]
    if is_local(storage):
        path = Path(str(url.database)).resolve()
        return FileLock(path.with_name(f".{path.name}.{name}.{purpose}.lock"))
    name = hashlib.sha256(f"{storage} {study_name}".encode()).hexdigest()[:12]
    return FileLock(Path(tempfile.gettempdir()) / f"ttq-{name}.{purpose}.lock")


class ServerLock:
    """A PostgreSQL advisory lock on its own connection: however that ends, the server frees the lock."""

    def __init__(self, storage: str, key: int) -> None:
        self._engine, self._key = _engine(storage), key
        self._connection: sqlalchemy.Connection | None = None

    def acquire(self, timeout: float = _PATIENCE) -> None:
        """Take the lock.

        Args:
            timeout: Seconds to wait for its owner; 0 to fail immediately.

        Raises:
            Timeout: If another process holds it.
        """
        connection = self._engine.connect()
        try:
            if timeout:
                connection.exec_driver_sql(f"SET lock_timeout = {round(1000 * timeout)}")
                connection.exec_driver_sql(f"SELECT pg_advisory_lock({self._key})")
            elif not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({self._key})").scalar():
                raise Timeout("advisory lock")
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def confirm(self) -> None:
        """Find out whether the lock is still ours, and take it again after the connection was lost.

        Raises:
            Timeout: If another process has taken it in the meantime.
        """
        try:
            if self._connection is not None:
                self._connection.exec_driver_sql("SELECT 1")
                return
        except sqlalchemy.exc.DBAPIError:
            self.release()
        self.acquire(timeout=0)

    def release(self) -> None:
        """Free the lock."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __enter__(self) -> ServerLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


Lock = FileLock | ServerLock


@lru_cache(maxsize=8)
def _engine(storage: str) -> sqlalchemy.Engine:
    """Connections that are closed, not kept, when they are given back: closing is what frees a lock."""
    options = connect_options(make_url(storage))
    return sqlalchemy.create_engine(
        storage, connect_args=options, poolclass=sqlalchemy.pool.NullPool, isolation_level="AUTOCOMMIT"
    )
