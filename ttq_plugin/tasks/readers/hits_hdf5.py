"""Reading transcranial Doppler recordings from one HDF5 file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.support.limits import LARGEST_ARRAY, check_bytes
from ttq_plugin.tasks.readers.hdf5 import check_storage, is_readable, read_subjects, words_of
from ttq_plugin.tasks.readers.hits_recordings import CLASSES, FORM, SAMPLES, Recordings, check_rate

KINDS = {"signals": "iuf", "labels": "iu", "subjects": "iuSO"}
"""NumPy's letters for what a dataset may hold: whole or floating-point numbers, text."""


def read_hdf5(path: Path) -> Recordings:
    """Read and check the file; rows count from 0, as in HDF5.

    Args:
        path: Datasets ``signals`` (n, 2, samples), the middle 1400 of which are used, ``labels`` (n,) and ``subjects``
            (n,), numbers or text; attribute ``rate`` in hertz.

    Returns:
        All its recordings, in the file's order.

    Raises:
        InputError: If the file is missing, damaged, or not of that form, or if h5py is not installed.
    """
    if not path.is_file():
        raise InputError(f"the recordings {path} do not exist; {FORM}.")
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path} cannot be read without h5py: install it (pip install h5py).") from None
    try:
        with h5py.File(path, "r") as file:
            for name in KINDS:
                if name in file and isinstance(file.get(name, getlink=True), h5py.ExternalLink):
                    raise InputError(f"{path}: {name} lies in another file; copy it into this one; {FORM}.")
                if not isinstance(file.get(name), h5py.Dataset):
                    raise InputError(f"{path} lacks the dataset {name}; {FORM}.")
            rate = _rate(file)
            _check_rate(path, rate)
            _check_claims(path, *(file[name] for name in KINDS))
            signals, labels = file["signals"], np.asarray(file["labels"])
            first = (signals.shape[2] - SAMPLES) // 2
            samples = signals[:, :, first : first + SAMPLES]
            subjects = read_subjects(path, file["subjects"])
    except InputError:
        raise
    except Exception as error:  # whatever h5py meets in a damaged file
        raise InputError(f"{path} cannot be read, it is damaged or not an HDF5 file ({error}); {FORM}.") from None
    _check_values(path, samples, labels)
    people = np.unique(subjects, return_inverse=True)[1].astype(np.int64)
    return Recordings(samples.astype(np.float32), labels.astype(np.int64), people)


def _rate(file: Any) -> Any:
    """The attribute, if it is one number: an attribute may be as large as a dataset."""
    if "rate" not in file.attrs:
        return None
    if file.attrs.get_id("rate").shape != ():
        raise InputError(f"{file.filename} must have the attribute rate, a number, got an array; {FORM}.")
    return file.attrs["rate"]


def _check_rate(path: Path, rate: Any) -> None:
    if rate is None or np.ndim(rate) != 0 or not np.issubdtype(np.asarray(rate).dtype, np.number):
        raise InputError(f"{path} must have the attribute rate, a number, got {rate!r}; {FORM}.")
    check_rate(path, float(rate))


def _check_claims(path: Path, signals: Any, labels: Any, subjects: Any) -> None:
    """Types, shapes and sizes of the datasets, before any of them is read."""
    for name, dataset in (("signals", signals), ("labels", labels), ("subjects", subjects)):
        if dataset.dtype.kind not in KINDS[name] or not is_readable(dataset.dtype):
            raise InputError(f"{path}: {name} holds values of type {words_of(dataset.dtype)}; {FORM}.")
    if signals.ndim != 3 or signals.shape[1] != 2 or signals.shape[2] < SAMPLES:
        raise InputError(f"{path}: signals has shape {signals.shape}, not (n, 2, {SAMPLES} or more); {FORM}.")
    for name, dataset in (("labels", labels), ("subjects", subjects)):
        if dataset.shape != signals.shape[:1]:
            raise InputError(f"{path}: {name} has shape {dataset.shape} beside {len(signals)} signals; {FORM}.")
    check_bytes(f"{path}: signals", (len(signals), 2, SAMPLES), max(4, signals.dtype.itemsize), FORM)
    check_bytes(f"{path}: subjects", subjects.shape, subjects.dtype.itemsize, FORM, LARGEST_ARRAY // 8)
    for name, dataset in (("signals", signals), ("labels", labels), ("subjects", subjects)):
        check_storage(f"{path}: {name}", dataset)


def _check_values(path: Path, signals: NDArray[Any], labels: NDArray[Any]) -> None:
    wrong = (labels < 0) | (labels >= CLASSES)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{path}: the label in row {row} is {labels[row]}; {FORM}.")
    with np.errstate(over="ignore"):  # told as not finite
        broken = ~np.isfinite(signals.astype(np.float32)).all(axis=(1, 2))
    if broken.any():
        raise InputError(f"{path}: the signal in row {broken.argmax()} holds a value that is NaN or infinite; {FORM}.")
