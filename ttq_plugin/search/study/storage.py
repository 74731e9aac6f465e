"""Opens the database of a study after checking its URL, because Optuna's own errors come late and are long."""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ttq_plugin.errors import InputError
from ttq_plugin.search.crew.patience import patiently
from ttq_plugin.support.names import redact, without

_PATIENCE = 60
"""Seconds that a worker waits for another one's write."""

_PROBE = 2
"""Seconds that opening a study waits: long enough for a write in progress, short enough for a timely error."""

_MADE = 30
"""Seconds during which opening is retried if another process created one of the tables meanwhile."""

HEARTBEAT = 20
"""Seconds between two signs of life of a worker; three of them missed, and it is taken for dead."""

_SESSION = (
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=4 -c tcp_user_timeout=30000 "
    "-c timezone=UTC"
)
"""PostgreSQL options of each connection: one to a vanished host ends within 30 s, and frees its locks."""


class Unavailable(InputError):
    """The database cannot be reached or read now; this may pass, so workers wait, and commands report it."""


def is_local(storage: str) -> bool:
    """Whether only processes of this machine can use the database: then every worker's life can be checked here."""
    return _parsed(storage).get_backend_name() == "sqlite"


def open_storage(storage: str, *, create: bool, heartbeat: int = HEARTBEAT) -> optuna.storages.RDBStorage:
    """Optuna's storage behind a URL.

    Args:
        storage: A database URL, such as sqlite:///studies.db or postgresql://user:password@host/name.
        create: Make the database file or its tables where they are missing (a worker never does).
        heartbeat: Seconds between two signs of life of a worker.

    Returns:
        An optuna.storages.RDBStorage.

    Raises:
        InputError: The database cannot be used; the message says why, without a password.
        Unavailable: If the database cannot be reached for now.
    """
    url = _parsed(storage)
    if url.get_backend_name() == "sqlite":
        _probe_sqlite(url, create)
    options = {"connect_args": connect_options(url), "pool_pre_ping": not is_local(storage)}
    try:
        return _storage(storage, create, engine_kwargs=options, heartbeat_interval=heartbeat)
    except ImportError as error:
        if "psycopg" in cause(error, url):
            raise InputError(
                f"The study database {redact(storage)} needs the driver psycopg, which is not installed: "
                "pip install 'ttq-plugin[postgresql]'."
            ) from None
        raise InputError(f"The study database {redact(storage)} cannot be opened: {cause(error, url)}.") from None
    except (SQLAlchemyError, RuntimeError, optuna.exceptions.StorageInternalError) as error:
        if not create and "version_info" in cause(error, url):  # Optuna's first table
            raise InputError(f"The database {redact(storage)} holds no study yet; ttq search makes one.") from None
        raise Unavailable(f"The study database {redact(storage)} cannot be opened: {cause(error, url)}.") from None


def _storage(storage: str, create: bool, *, heartbeat_interval: int, **options: Any) -> optuna.storages.RDBStorage:
    """Open Optuna's storage, and retry if another process created one of its tables at the same moment.

    Even a reader creates a missing table of versions, and the second process to do so fails.

    Args:
        storage: The database URL.
        create: Make its tables where they are missing.
        heartbeat_interval: Seconds between two signs of life of a worker.
        **options: More of RDBStorage's.

    Returns:
        The storage.

    Raises:
        SQLAlchemyError: It cannot be opened.
    """

    def opened() -> optuna.storages.RDBStorage:
        with warnings.catch_warnings():
            # Heartbeats are "experimental" only in that study.optimize alone sends them: here a worker does.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.RDBStorage(
                storage.replace("{", "{{").replace("}", "}}"),  # Optuna formats the address as a template
                skip_table_creation=not create,
                heartbeat_interval=heartbeat_interval,
                grace_period=3 * heartbeat_interval,
                **options,
            )

    def made_meanwhile(error: Exception) -> bool:
        told = cause(error, storage).lower()
        return "already exists" in told or "unique" in told

    # Longer than a look: on a busy machine one attempt alone may take seconds.
    return patiently(opened, _MADE, faults=(SQLAlchemyError,), passes=made_meanwhile, pause=0.1)


def connect_options(url: URL) -> dict[str, Any]:
    """Keywords of the driver: none of them lets a connection to a host that vanished wait for ever."""
    if url.get_backend_name() == "sqlite":
        return {"timeout": _PATIENCE}
    if url.get_backend_name() != "postgresql":
        return {"connect_timeout": 10}
    options = {"options": f"{_SESSION} {url.query.get('options', '')}".strip(), "application_name": "ttq"}
    alive = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": 30000}
    return {"connect_timeout": 10, **alive, **options}


def _parsed(storage: str) -> URL:
    try:
        url = make_url(storage)
    except (ArgumentError, ValueError):  # such as a port that is no number
        # The text may hold a password in a place that nothing recognises, so it is not repeated.
        raise InputError("The storage must be a database URL such as sqlite:///studies.db.") from None
    if url.get_backend_name() == "sqlite" and url.query:
        raise InputError(f"The storage must name a SQLite file without options behind a ?, got {redact(storage)}.")
    return url


def _probe_sqlite(url: URL, create: bool) -> None:
    """Finds out with plain sqlite3 whether the file can be read and written; switches it to write-ahead logging.

    The switch is stored in the file: readers and one writer no longer block each other, in any later process.

    Args:
        url: The parsed URL.
        create: Whether the file may be missing.

    Raises:
        InputError: If it cannot be used, or holds something else.
    """
    name = url.database or ""
    if name in {"", ":memory:"} or name.startswith("file:"):
        raise InputError(f"The storage {url.render_as_string()} must name a file: every worker opens it by its path.")
    path = Path(name)
    _check_parent(path)
    if path.is_dir() or (not create and not path.exists()):
        raise InputError(f"The study database {path} {'is a folder' if path.is_dir() else 'does not exist'}.")
    try:
        tables = _tables(path)
    except sqlite3.Error as error:
        kind = Unavailable if "locked" in str(error) else InputError
        raise kind(f"The study database {path} cannot be used: {_explain(error)}.") from None
    if tables and "studies" not in tables:
        raise InputError(f"The database {path} holds something other than Optuna studies; choose another file.")


def check_folder(storage: str, made: Path) -> None:
    """Check that a local database has a folder to lie in; the file itself need not exist yet.

    Args:
        storage: A database URL.
        made: The folder that the search makes.

    Raises:
        InputError: If the folder is missing.
    """  # noqa: DOC502 - raised by what it calls
    name = _parsed(storage).database
    if name and is_local(storage) and Path(name).parent.absolute() != made.absolute():
        _check_parent(Path(name))


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise InputError(f"The study database {path} cannot be opened: there is no folder {path.parent}.")


def _tables(path: Path) -> set[str]:
    """The names of the database's tables, after a trial of writing.

    SQLite refuses the switch at once, whatever its timeout, while another process has the file open: of two that open a
    new study together one would give up, so it is tried again until the time is over.

    Args:
        path: Path of the database.

    Returns:
        The names.

    Raises:
        sqlite3.OperationalError: It cannot be used, or has been locked for _PROBE seconds.
    """

    def looked() -> set[str]:
        with closing(sqlite3.connect(path, timeout=_PROBE, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN IMMEDIATE")
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            connection.execute("ROLLBACK")
        return tables

    faults = (sqlite3.OperationalError,)
    return patiently(looked, _PROBE, faults=faults, passes=lambda error: "locked" in str(error), pause=0.02)


def _explain(error: sqlite3.Error) -> str:
    text = str(error)
    if "locked" in text:
        return f"another program has held it locked for {_PROBE} seconds (database is locked)"
    if "readonly" in text or "unable to open" in text:
        return f"it cannot be written here ({text})"
    return text


def cause(error: BaseException, url: URL | str) -> str:
    """The driver's error message on one line, with the URL's password hidden in case it is repeated there."""
    url = make_url(url)
    while (inner := getattr(error, "orig", None) or error.__cause__) is not None:
        error = inner
    text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return redact(without(text, url.password))
