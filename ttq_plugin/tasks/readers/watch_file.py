"""Finding and checking seglearn's recordings of wrists."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.readers.pickled_array import read_pickled_object

EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
"""The seven shoulder exercises, as the file abbreviates them: pendulum, abduction, forward elevation, internal and
external rotation with a band, a trapezius exercise, rowing."""

AXES = 6
"""Three of acceleration, then three of rotation."""

FORM = (
    "seglearn's watch_dataset.npy is needed: a dictionary with X, a list of arrays (samples, 6), y, their classes from "
    "0 to 6, and subject, their people"
)


@dataclass(frozen=True)
class Movements:
    """The file's recordings.

    Attributes:
        series: One array for each recording, float32, shape (samples, 6), 50 samples a second.
        labels: int64, shape (recordings,): index into ``EXERCISES``.
        people: int64, shape (recordings,): who wore the watch.
    """

    series: tuple[NDArray[np.float32], ...]
    labels: NDArray[np.int64]
    people: NDArray[np.int64]


def find(source: Path | None) -> Path:
    """The user's file, else the one inside the installed package seglearn, of which nothing is imported.

    Args:
        source: The user's file, or None.

    Returns:
        Its path; a file that the user named need not exist.

    Raises:
        InputError: If None was given and seglearn is not installed.
    """
    if source is not None:
        return source
    package = find_spec("seglearn")
    for folder in (package and package.submodule_search_locations) or ():
        return Path(folder) / "data" / "watch_dataset.npy"
    raise InputError(
        "watch-cnn needs the recordings inside the package seglearn, which is not installed: run "
        "pip install 'ttq-plugin[watch]', or name the file watch_dataset.npy with --data."
    )


def read(path: Path, shortest: int) -> Movements:
    """Read and check the file.

    Args:
        path: Seglearn's file or one of its form.
        shortest: Samples that each recording must have at least.

    Returns:
        All its recordings, in the file's order.

    Raises:
        InputError: If the file is missing, damaged or not of that form; recordings count from 0.
    """
    found = read_pickled_object(path, FORM)
    missing = [name for name in ("X", "y", "subject") if not isinstance(found, dict) or name not in found]
    if missing:
        raise InputError(f"{path} lacks {missing[0]}; {FORM}.")
    labels, people = (_whole(path, name, found[name]) for name in ("y", "subject"))
    series = found["X"]
    if not isinstance(series, list) or not len(series) == len(labels) == len(people):
        sizes = ", ".join(f"{name} {len(found[name])}" for name in ("X", "y", "subject"))
        raise InputError(f"{path} must have a class and a person for each recording, got {sizes}; {FORM}.")
    wrong = (labels < 0) | (labels >= len(EXERCISES))
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{path}: y[{row}] is {labels[row]}; {FORM}.")
    return Movements(tuple(_series(path, row, values, shortest) for row, values in enumerate(series)), labels, people)


def _whole(path: Path, name: str, values: Any) -> NDArray[np.int64]:
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iu":
        raise InputError(f"{path}: {name} must be one whole number for each recording; {FORM}.")
    return values.astype(np.int64)


def _series(path: Path, row: int, values: Any, shortest: int) -> NDArray[np.float32]:
    if (
        not isinstance(values, np.ndarray)
        or values.ndim != 2
        or values.shape[1] != AXES
        or values.dtype.kind not in "iuf"
    ):
        raise InputError(f"{path}: X[{row}] is not an array of numbers of shape (samples, {AXES}); {FORM}.")
    if len(values) < shortest:
        raise InputError(f"{path}: X[{row}] has {len(values)} samples, a window takes {shortest}; leave it out.")
    with np.errstate(over="ignore"):
        series: NDArray[np.float32] = values.astype(np.float32)
    if not np.isfinite(series).all():
        raise InputError(f"{path}: X[{row}] holds a value that is NaN or infinite; leave that recording out.")
    return series
