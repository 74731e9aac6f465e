"""Reading transcranial Doppler recordings from a folder of stereo WAV files and a CSV of labels and subjects."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.support.limits import check_bytes, check_lines
from ttq_plugin.tasks.readers.hits_recordings import CLASSES, FORM, SAMPLES, Recordings, check_rate, middle
from ttq_plugin.tasks.readers.wav import centred, read_wav

LABELS = "labels.csv"
LARGEST_LABELS = 1 << 26
"""Bytes of that table."""

COLUMNS = ("file", "label", "subject")


@dataclass(frozen=True)
class Row:
    """One line of the CSV.

    Attributes:
        where: The CSV and the line's number, for messages.
        file: The WAV file, relative to the folder.
        label: 0 to 2.
        subject: Any text.
    """

    where: str
    file: str
    label: int
    subject: str


def read_folder(folder: Path) -> Recordings:
    """Read and check the folder's ``labels.csv`` and the WAV files that it names.

    Args:
        folder: ``labels.csv`` with a header and the columns file, label and subject (in any order, others are ignored),
            and stereo WAV files, left I and right Q, all of one rate; the middle 1400 samples of each are used.

    Returns:
        The recordings, in the CSV's order.

    Raises:
        InputError: If a file is missing, damaged, or not of that form; the CSV's line is named.
    """
    rows = list(_rows(folder / LABELS))
    if not rows:
        raise InputError(f"{folder / LABELS} holds no rows; {FORM}.")
    check_bytes(f"{folder / LABELS}: its rows", (len(rows), 2, SAMPLES), 4, FORM)
    signals = np.empty((len(rows), 2, SAMPLES), dtype=np.float32)
    common = 0
    for index, row in enumerate(rows):
        rate, signals[index] = _wav(row, folder / row.file)
        common = common or rate
        if rate != common:
            raise InputError(
                f"{row.where}: {row.file} has {rate} samples a second where {rows[0].file} has {common}; {FORM}."
            )
    subjects = np.unique([row.subject for row in rows], return_inverse=True)[1].astype(np.int64)
    return Recordings(signals, np.array([row.label for row in rows], dtype=np.int64), subjects)


def _rows(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise InputError(f"the table {path} does not exist; {FORM}.")
    check_lines(path, LARGEST_LABELS, FORM)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, strict=True)
            header = [name.strip() for name in next(lines, [])]
            if missing := [name for name in COLUMNS if header.count(name) != 1]:
                raise InputError(f"{path} lacks the column {missing[0]}, or has it twice; {FORM}.")
            seen: set[str] = set()
            for cells in filter(None, lines):
                row = _row(f"{path}, line {lines.line_num}", header, cells)
                if row.file in seen:
                    raise InputError(f"{row.where} names {row.file} a second time; {FORM}.")
                seen.add(row.file)
                yield row
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read, it is damaged or not a CSV ({error}); {FORM}.") from None


def _row(where: str, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        raise InputError(f"{where} holds {len(cells)} values, not {len(header)}; {FORM}.")
    values = dict(zip(header, (cell.strip() for cell in cells), strict=True))
    if values["label"] not in map(str, range(CLASSES)):
        raise InputError(f"{where}: the label is {values['label'][:40]!r}; {FORM}.")
    if empty := [name for name in COLUMNS if not values[name]]:
        raise InputError(f"{where}: the {empty[0]} is empty; {FORM}.")
    return Row(where, values["file"], int(values["label"]), values["subject"])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _wav(row: Row, path: Path) -> tuple[int, NDArray[np.float32]]:
    """Rate and the middle samples, shape (2, 1400)."""
    if not _is_file(path):
        raise InputError(f"{row.where}: there is no {str(path)[:300]}; {FORM}.")
    where = f"{row.where}: {path}"
    rate, samples = read_wav(path, where, FORM, channels=2)
    if len(samples) < SAMPLES:
        raise InputError(f"{where} has {len(samples)} samples, fewer than {SAMPLES}; {FORM}.")
    check_rate(where, rate)
    values = centred(middle(samples.T))
    if not np.isfinite(values).all():
        raise InputError(f"{where} holds a value that is NaN or infinite; {FORM}.")
    return rate, values
