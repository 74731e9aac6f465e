"""Reads the Epileptic Seizure Recognition CSV; every problem is reported in one sentence."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.support.limits import check_size

FILE = "Epileptic Seizure Recognition.csv"
SAMPLES = 178
"""Samples of one signal: a second of EEG at 178 Hz."""

CLASSES = 5
RECORDINGS = 10
"""Smallest number of recordings of each class; fewer cannot be spread over three splits."""

FORM = (
    f'the CSV "{FILE}" (plain or .gz) is needed: an id such as X21.V1.791 (its last number names the recording), '
    f"columns X1 to X{SAMPLES}, and y from 1 to {CLASSES}"
)
LARGEST = 1 << 27
"""Bytes of the text; the file has 8 million."""

COLUMNS = [*(f"X{i}" for i in range(1, SAMPLES + 1)), "y"]
_ID = re.compile(r"X\d+\.V1\.(\d{1,9})")


@dataclass(frozen=True)
class Chunks:
    """The file's rows.

    Attributes:
        signals: float64, shape (rows, 178), in the file's units (microvolts).
        labels: int64, shape (rows,), from 1 to 5; 1 is a seizure.
        recordings: int64, shape (rows,): which recording a row was cut from.
    """

    signals: NDArray[np.float64]
    labels: NDArray[np.int64]
    recordings: NDArray[np.int64]


def find(source: Path | None) -> Path:
    """The user's file, else the one in the folder TTQ_DATA_DIR, plain or .gz.

    Args:
        source: The user's file, or None.

    Returns:
        Its path; a file that the user named need not exist.

    Raises:
        InputError: If None was given and there is no such folder or file.
    """
    if source is not None:
        return source
    folder = os.environ.get("TTQ_DATA_DIR")
    for name in (FILE, f"{FILE}.gz"):
        if folder and (path := Path(folder) / name).is_file():
            return path
    where = f"TTQ_DATA_DIR is {folder!r}, where there is none" if folder else "TTQ_DATA_DIR is not set"
    raise InputError(
        f"{FORM}; none was given with --data and {where}: download it (Kaggle), then name it with --data or put it "
        f"into the "
        "folder TTQ_DATA_DIR, as ttq_plugin ships no data."
    )


def read(path: Path) -> Chunks:
    """Read and check the file.

    Args:
        path: The CSV, plain or compressed with gzip.

    Returns:
        All its rows, in the file's order.

    Raises:
        InputError: If the file is missing, damaged, or not of that form; the line is named.
    """
    header, *lines = _text(path).splitlines() or [""]
    _check_header(path, header)
    numbered = {number: line for number, line in enumerate(lines, 2) if line.strip()}
    recordings = np.array([_recording(path, number, line) for number, line in numbered.items()], dtype=np.int64)
    values = _values(path, numbered)
    labels = values[:, -1]
    wrong = ~np.isin(labels, np.arange(1, CLASSES + 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{path}: y is {labels[row]:g} in line {list(numbered)[row]}; {FORM}.")
    chunks = Chunks(values[:, :-1], labels.astype(np.int64), recordings)
    _check_recordings(path, chunks)
    return chunks


def _text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"the data file {path} does not exist; {FORM}.")
    check_size(path, LARGEST, FORM)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise InputError(f"{path} must hold at most {LARGEST} bytes of text, but it holds more; {FORM}.")
        return raw.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read, it is damaged or not a CSV ({error}); {FORM}.") from None


def _check_header(path: Path, header: str) -> None:
    names = [name.strip().strip('"') for name in header.split(",")]
    if missing := [name for name in COLUMNS if name not in names]:
        raise InputError(f"{path} lacks the column {missing[0]}; {FORM}.")
    if names[1:] != COLUMNS:
        raise InputError(f"{path} has other columns, or has them in another order; {FORM}.")


def _recording(path: Path, number: int, line: str) -> int:
    """The recording that a line's id names."""
    count = line.count(",") + 1
    if count != SAMPLES + 2:
        raise InputError(f"{path}: line {number} holds {count} values, not {SAMPLES + 2}; {FORM}.")
    name = line.partition(",")[0].strip().strip('"')
    found = _ID.fullmatch(name)
    if found is None:
        raise InputError(f"{path}: line {number} has the id {name[:40]!r}, which names no recording; {FORM}.")
    return int(found[1])


def _values(path: Path, numbered: dict[int, str]) -> NDArray[np.float64]:
    """Signals and label of each line, (rows, 179)."""
    if not numbered:
        raise InputError(f"{path} holds no rows; {FORM}.")

    def parse(lines: list[str]) -> NDArray[np.float64]:
        return np.loadtxt(lines, delimiter=",", usecols=range(1, SAMPLES + 2), comments=None, quotechar='"', ndmin=2)

    try:
        values = parse(list(numbered.values()))
    except ValueError:
        for number, line in numbered.items():
            try:
                parse([line])
            except ValueError:
                raise InputError(f"{path}: line {number} holds a value that is not a number; {FORM}.") from None
        raise
    wrong = ~np.isfinite(values).all(axis=1)
    if wrong.any():
        number = list(numbered)[int(wrong.argmax())]
        raise InputError(f"{path}: line {number} holds a value that is NaN or infinite; {FORM}.")
    return values


def _check_recordings(path: Path, chunks: Chunks) -> None:
    pairs = np.unique(np.stack([chunks.recordings, chunks.labels], axis=1), axis=0)
    names, counts = np.unique(pairs[:, 0], return_counts=True)
    if (counts > 1).any():
        name = names[counts.argmax()]
        classes = " and ".join(str(label) for recording, label in pairs if recording == name)
        raise InputError(f"{path}: recording {name} has rows of class {classes}, it must have one class; {FORM}.")
    each = np.bincount(pairs[:, 1], minlength=CLASSES + 1)[1:]
    if each.min() < RECORDINGS:
        raise InputError(
            f"{path}: class {each.argmin() + 1} has {each.min()} recordings, at least {RECORDINGS} are needed; {FORM}."
        )
