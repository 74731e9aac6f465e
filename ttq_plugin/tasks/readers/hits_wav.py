"""Reading transcranial Doppler recordings from a folder of stereo WAV files and a CSV of labels and subjects."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.support.limits import check_bytes, check_lines, check_size
from ttq_plugin.tasks.readers.hits_recordings import CLASSES, FORM, SAMPLES, Recordings, check_rate, middle

LABELS = "labels.csv"
LARGEST_LABELS = 1 << 26
"""Bytes of that table."""

LARGEST_WAV = 1 << 28
"""Bytes of a recording, of which 1400 samples are used."""

MOST_CHUNKS = 1000
"""Parts of a WAV file; most have three."""

COLUMNS = ("file", "label", "subject")


@dataclass(frozen=True)
class Row:
    """One line of the CSV.

    Attributes:
        where: the CSV and the line's number, for messages.
        file: the WAV file, relative to the folder.
        label: 0 to 2.
        subject: any text.
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
        InputError: if a file is missing, damaged, or not of that form; the CSV's line is named.
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


def _check_chunks(where: str, path: Path) -> None:
    """Refuse a file whose parts claim more than there is: SciPy would make room for it first."""
    size, at = path.stat().st_size, 12
    with path.open("rb") as file:
        order: Literal["little", "big"] = "big" if (kind := file.read(4)) == b"RIFX" else "little"
        if kind == b"RF64":
            raise InputError(f"{where} is of the kind for more than 4 gigabytes, RF64; save it as a plain WAV; {FORM}.")
        for _ in range(MOST_CHUNKS):
            file.seek(at)
            head = file.read(8)
            if len(head) < 8:
                return
            length = int.from_bytes(head[4:], order)
            if head[:4] == b"data" and at + 8 + length > size:
                raise InputError(f"{where} is damaged or not a WAV file ({length} bytes of samples claimed); {FORM}.")
            at += 8 + length + length % 2
    raise InputError(f"{where} must have at most {MOST_CHUNKS} parts, it has more; {FORM}.")


def _wav(row: Row, path: Path) -> tuple[int, NDArray[np.float32]]:
    """Rate and the middle samples, shape (2, 1400)."""
    from scipy.io import wavfile

    if not _is_file(path):
        raise InputError(f"{row.where}: there is no {str(path)[:300]}; {FORM}.")
    check_size(path, LARGEST_WAV, FORM)
    _check_chunks(f"{row.where}: {path}", path)
    try:
        with warnings.catch_warnings(action="ignore", category=wavfile.WavFileWarning):  # chunks that do not matter
            warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
            rate, samples = wavfile.read(path)
    except Exception as error:  # whatever SciPy meets in a damaged file, an UnboundLocalError among it
        raise InputError(f"{row.where}: {path} is damaged or not a WAV file ({error}); {FORM}.") from None
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    if channels != 2:
        raise InputError(f"{row.where}: {path} has {channels} channel{'s' * (channels > 1)}, not 2; {FORM}.")
    if len(samples) < SAMPLES:
        raise InputError(f"{row.where}: {path} has {len(samples)} samples, fewer than {SAMPLES}; {FORM}.")
    check_rate(f"{row.where}: {path}", rate)
    with np.errstate(over="ignore"):  # told as not finite
        values: NDArray[np.float32] = middle(samples.T).astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{row.where}: {path} holds a value that is NaN or infinite; {FORM}.")
    # Eight bits are stored without a sign, silence at 128.
    return rate, values - 128 if samples.dtype == np.uint8 else values
