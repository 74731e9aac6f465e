"""The MLflow store of a study: a local directory, or a running tracking server."""

import logging
import os
import re
import socket
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from ttq_plugin.errors import InputError
from ttq_plugin.support.files import write_bytes
from ttq_plugin.support.names import file_name, redact
from ttq_plugin.support.quiet import quiet_mlflow
from ttq_plugin.tracking.faults import UnwritableError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PASSING = ("disk is full", "No space left", "disk I/O error", "unable to open database file", "database is locked")
"""How SQLite and the system say that a database cannot be written now, but may be later."""

_HALF = ".artifact.uploading."
"""How the names of artifacts begin that MLflow has not yet written to their end."""


@dataclass(frozen=True)
class Store:
    """A local directory (database and artifacts), or with `server` the address of a running tracking server."""

    directory: Path | None = None
    server: str | None = None

    @property
    def database(self) -> Path | None:
        """The database file of a local store."""
        return self.directory.absolute() / "mlflow.db" if self.directory else None

    @property
    def uri(self) -> str:
        """The tracking URI, as MLflow understands it."""
        return f"sqlite:///{self.database}" if self.directory else str(self.server)

    @property
    def base(self) -> str:
        """What a link into MLflow's interface begins with: the server's address; of a local store, nothing."""
        return f"{self.server}/" if self.server else ""

    @property
    def artifacts(self) -> str | None:
        """The root of the artifacts as a file URI; None where the server decides."""
        return (self.directory.absolute() / "artifacts").as_uri() if self.directory else None

    def artifacts_of(self, experiment: str) -> str | None:
        """The folder of an experiment's artifacts as a file URI, whatever its name; None where the server decides."""
        # MLflow decodes percent signs once or twice, depending on what is read, so that none may be in the name.
        folder = file_name(experiment).replace("%", "=")
        return (self.directory.absolute() / "artifacts" / folder).as_uri() if self.directory else None

    def sweep(self, experiment: str) -> None:
        """Remove the halves of artifacts that writers which were killed have left; of a local store only.

        Args:
            experiment: Its name; no other process may be writing it.
        """
        place = self.artifacts_of(experiment)
        for half in Path(unquote(urlsplit(place).path)).rglob(f"{_HALF}*") if place else ():
            half.unlink(missing_ok=True)

    @cached_property
    def client(self) -> "MlflowClient":
        """MLflow's client, imported on first use."""
        _hush()
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)


def open_store(where: str | Path) -> Store:
    """Open a store, and create its directory and database when they do not exist yet.

    Args:
        where: A directory such as `mlflow_runs`, or the http(s) address of an MLflow tracking server.

    Returns:
        The store, ready to be written.

    Raises:
        InputError: When it is neither, cannot be written, or does not answer.
    """
    scheme = str(where).partition("://")[0].lower() if "://" in str(where) else ""
    if scheme in {"http", "https"}:
        store = Store(server=_without_login(str(where)).rstrip("/"))
        _check_server(store)
        return store
    if scheme:
        # Only the scheme is repeated: the rest of a database URL may hold a password.
        raise InputError(
            f"an MLflow store must be a directory or an http(s) address, got a {scheme}:// URL; start `mlflow server "
            "--backend-store-uri ...` on it and give that server's address"
        )
    directory = Path(where)
    check_folder(directory)
    _check_writable(directory)
    store = Store(directory)
    _create_schema(store, directory / ".schema.lock")
    return store


def check_store(where: str | Path) -> None:
    """Refuse a store that could not be opened after the work that it is for; nothing is made yet.

    Args:
        where: The store, as for ``open_store``.

    Raises:
        InputError: As ``open_store``, of a server; of a folder that cannot be one.
    """  # noqa: DOC502 - raised by what it calls
    if "://" in str(where):
        open_store(where)
    else:
        check_folder(Path(where))


def _without_login(address: str) -> str:
    """The address without its user and password, which MLflow gets where it looks for them: in the environment.

    In the address they would come into links, messages and files.

    Args:
        address: The address of a tracking server.

    Returns:
        The address that may be shown.

    Raises:
        InputError: If it cannot be read, or has a user without a password.
    """
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError as error:
        raise InputError(f"the MLflow server's address {redact(address)} cannot be read ({error}).") from None
    if parts.username is None:
        return address
    if not parts.username or not parts.password:
        raise InputError(
            "the MLflow server's address must have a user and a password, or neither, got one of them; a token goes "
            "into MLFLOW_TRACKING_TOKEN."
        )
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _check_server(store: Store) -> None:
    """Fail in seconds where MLflow's own client would retry for minutes."""
    parts = urlsplit(store.uri)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=5).close()
    except OSError as error:
        raise InputError(
            f"a running MLflow server was required at {parts.hostname}:{port}, got: {error.strerror or error}; start "
            f"one there (`ttq ui{'' if port == 5000 else f' --port {port}'}`), or give a directory"
        ) from None


def check_folder(directory: Path) -> None:
    """Refuse a folder whose name the address of a database in it cannot hold.

    Args:
        directory: The store's.

    Raises:
        InputError: If it has a question mark, or a percent sign that begins an encoded byte.
    """
    if re.search(r"\?|%[0-9A-Fa-f]{2}", str(directory.absolute())):
        raise InputError(
            "the MLflow store must be a folder without ? and % codes in its path, which a database's address cannot "
            f"hold, got {directory.absolute()}; give another one"
        )


def _check_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UnwritableError(
            f"the MLflow store must be a writable directory, got {directory} ({error.strerror}); give another one"
        ) from None


def _create_schema(store: Store, lock: Path) -> None:
    """Let one process at a time create the tables: two at once fail with "table already exists"."""
    from filelock import FileLock
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    database = store.directory / "mlflow.db" if store.directory else Path()
    try:
        with FileLock(lock):
            if not database.exists():
                write_bytes(database, _empty_database())
            _ = store.client.search_experiments(max_results=1)
            _write_ahead(store.database)
    except InputError as error:  # of the new file
        raise UnwritableError(str(error)) from None
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason = str(error).splitlines()[0]
        if any(sign in str(error) for sign in _PASSING):
            raise UnwritableError(f"{database} cannot be written ({reason}); free space on its disk.") from None
        raise InputError(
            f"{database} must be a database of this MLflow version, got: {reason}; move it away, or give another "
            "directory"
        ) from None


def _empty_database() -> bytes:
    """A database with MLflow's tables, made elsewhere: half of one in the store could be neither used nor repaired."""
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole.db"
        whole.write_bytes(_migrated())
        with closing(sqlite3.connect(whole)) as target:
            first = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0"
            target.execute(first, ((Path.cwd() / "mlruns" / "0").as_uri(),))
            target.commit()
        _write_ahead(whole)
        return whole.read_bytes()


@cache
def _migrated() -> bytes:
    """What MLflow makes in a second by all the migrations since its first version; the same for every store."""
    _hush()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with tempfile.TemporaryDirectory() as scratch:
        made, whole = Store(Path(scratch)), Path(scratch) / "whole.db"
        # MLflow writes the place of its first experiment into SQL as it is: an address has no quotes, a folder may.
        SqlAlchemyStore(made.uri, Path(scratch).as_uri())  # type: ignore[no-untyped-call]
        # MLflow keeps its own open: what it has not yet moved into the file is in the copy.
        with closing(sqlite3.connect(str(made.database))) as source, closing(sqlite3.connect(whole)) as target:
            source.backup(target)
        return whole.read_bytes()


def _hush() -> None:
    """Keep MLflow from logging what every user sees anyway: its tables' history, and errors that are raised as well."""
    quiet_mlflow()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _write_ahead(database: Path | None) -> None:
    """Write-ahead logging, stored in the file: an open `ttq ui` and a search no longer wait for each other."""
    with closing(sqlite3.connect(str(database), timeout=60)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def tested(where: str | Path, study: str, score: str = "mcc") -> dict[int, dict[str, float]]:
    """Test scores of a study's members with their intervals, by trial; nothing is made where there is no store.

    Args:
        where: The store, as for `open_store`.
        study: The study's name.
        score: The task's metric.

    Returns:
        Trial number -> ``test_<score>`` and what else was recorded of it, such as ``test_<score>_change``.
    """
    if "://" not in str(where) and not (Path(where) / "mlflow.db").is_file():
        return {}
    store = open_store(where)
    experiment = store.client.get_experiment_by_name(study)
    if experiment is None:
        return {}
    name = f"test_{score}"
    runs = store.client.search_runs([experiment.experiment_id], "tags.role = 'trial'", max_results=50_000)
    return {
        int(run.data.tags["trial"]): {key: value for key, value in run.data.metrics.items() if key.startswith(name)}
        for run in runs
        if name in run.data.metrics
    }
