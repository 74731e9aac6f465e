"""Reading the public heart beat CSVs (Kachuee et al. 2018): 187 samples and a label a row, no header, no ids."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.support.limits import check_lines

SAMPLES = 187
"""Samples of one beat: 1.5 s at 125 Hz, with zeros after its end."""

FORM = f"a CSV without header is needed, each row {SAMPLES} samples and a label"


@dataclass(frozen=True)
class Beats:
    """Heart beats, n of them.

    Attributes:
        signals: float64, shape (n, 187).
        labels: int64, shape (n,), from 0.
    """

    signals: NDArray[np.float64]
    labels: NDArray[np.int64]


def read_csv(path: Path, classes: tuple[int, ...], least: int) -> Beats:
    """Read and check one file.

    Args:
        path: The CSV.
        classes: The labels that it must hold, and no others.
        least: Rows that each of them must have.

    Returns:
        All its beats, in the file's order.

    Raises:
        InputError: If the file is missing, damaged, or not of that form; the line is named.
    """
    if not path.is_file():
        raise InputError(f"the data file {path} does not exist; {FORM}.")
    check_lines(path, form=FORM)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that it is empty: said below
            values = np.loadtxt(path, delimiter=",", comments=None, ndmin=2, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); {FORM}.") from None
    except ValueError:
        values = np.empty((0, 0))
    if values.shape[1] != SAMPLES + 1 or not len(values):
        raise InputError(f"{path} {_fault(path)}; {FORM}.")
    labels = values[:, -1]
    broken, foreign = ~np.isfinite(values).all(axis=1), ~np.isin(labels, classes)
    if broken.any():
        number = _line(path, int(broken.argmax()))
        raise InputError(f"{path}: line {number} holds a value that is NaN or infinite; {FORM}.")
    if foreign.any():
        row = int(foreign.argmax())
        allowed = " or ".join(map(str, classes))
        raise InputError(f"{path}: the label in line {_line(path, row)} is {labels[row]:g}, not {allowed}; {FORM}.")
    for label in classes:
        if (count := int((labels == label).sum())) < least:
            raise InputError(f"{path}: class {label} has {count} rows, at least {least} are needed; {FORM}.")
    return Beats(values[:, :-1], labels.astype(np.int64))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank."""
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())


def _line(path: Path, row: int) -> int:
    """The number of the line where a row stands, as blank lines are no rows."""
    return next(number for index, (number, _) in enumerate(_lines(path)) if index == row)


def _fault(path: Path) -> str:
    """What kept NumPy from reading the file as a table of so many columns."""
    for number, line in _lines(path):
        cells = line.split(",")
        if len(cells) != SAMPLES + 1:
            return f"has {len(cells)} values in line {number}, not {SAMPLES + 1}"
        try:
            np.array(cells, dtype=np.float64)
        except ValueError:
            return f"has a value in line {number} that is not a number"
    return "holds no rows"
