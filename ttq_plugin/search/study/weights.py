"""Transfers weights from workers on other machines through the study's database into the search's folder."""

from __future__ import annotations

from pathlib import Path

from optuna import Study
from sqlalchemy import Column, ColumnElement, Integer, LargeBinary, MetaData, Table, delete, insert, select

from ttq_plugin.errors import InputError
from ttq_plugin.search.study import insides
from ttq_plugin.support.files import write_whole

_TABLE = Table(
    "ttq_weights",
    MetaData(),
    Column("study_id", Integer, primary_key=True, autoincrement=False),
    Column("trial", Integer, primary_key=True, autoincrement=False),
    Column("file", LargeBinary, nullable=False),
)
"""Files on their way, safetensors as they were written; only those of trials that the search has not seen yet."""


def expect(study: Study) -> None:
    """Make the place for files that workers will send, if it is not there."""
    _TABLE.create(insides.engine(study), checkfirst=True)


def send(study: Study, number: int, path: Path) -> None:
    """Put a trial's file into the database, in the place of one that an earlier attempt put there.

    Args:
        study: An optuna.Study.
        number: The trial's number.
        path: The file.
    """
    row = {"study_id": insides.study_id(study), "trial": number, "file": path.read_bytes()}
    with insides.engine(study).begin() as connection:
        connection.execute(delete(_TABLE).where(_is(study, number)))
        connection.execute(insert(_TABLE).values(**row))


def collect(study: Study, folder: Path) -> None:
    """Move what has arrived into the folder, as trial-<number>.safetensors; each file is removed once it is written.

    Args:
        study: An optuna.Study.
        folder: Folder in which the search keeps its models.
    """
    engine, mine = insides.engine(study), _TABLE.c.study_id == insides.study_id(study)
    with engine.connect() as connection:
        numbers = list(connection.execute(select(_TABLE.c.trial).where(mine)).scalars())
    for number in numbers:
        this = _is(study, number)
        with engine.connect() as connection:
            file = connection.execute(select(_TABLE.c.file).where(this)).scalar()
        if file is not None:
            _write(folder / f"trial-{number}.safetensors", file)
        with engine.begin() as connection:
            connection.execute(delete(_TABLE).where(this))


def _is(study: Study, number: int) -> ColumnElement[bool]:
    return (_TABLE.c.study_id == insides.study_id(study)) & (_TABLE.c.trial == number)


def _write(path: Path, content: bytes) -> None:
    try:
        write_whole(path, lambda temporary: Path(temporary).write_bytes(content))
    except InputError as error:  # of a disk that is full now, and may be free later
        raise OSError(str(error)) from None
