"""Reading transcranial Doppler recordings from one HDF5 file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.hits_recordings import CLASSES, FORM, SAMPLES, Recordings, check_rate, middle

KINDS = {"signals": "iuf", "labels": "iu", "subjects": "iuSO"}
"""NumPy's letters for what a dataset may hold: whole or floating-point numbers, text."""


def read_hdf5(path: Path) -> Recordings:
    """Read and check the file; rows count from 0, as in HDF5.

    Args:
        path: datasets ``signals`` (n, 2, samples), the middle 1400 of which are used, ``labels`` (n,) and ``subjects``
            (n,), numbers or text; attribute ``rate`` in hertz.

    Returns:
        All its recordings, in the file's order.

    Raises:
        InputError: if the file is missing, damaged, or not of that form, or if h5py is not installed.
    """
    if not path.is_file():
        raise InputError(f"the recordings {path} do not exist; {FORM}.")
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path} cannot be read without h5py: install it (pip install h5py).") from None
    try:
        with h5py.File(path, "r") as file:
            missing = [name for name in KINDS if not isinstance(file.get(name), h5py.Dataset)]
            arrays = {name: np.asarray(file[name]) for name in KINDS if name not in missing}
            rate = file.attrs.get("rate")
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise InputError(f"{path} cannot be read, it is damaged or not an HDF5 file ({error}); {FORM}.") from None
    if missing:
        raise InputError(f"{path} lacks the dataset {missing[0]}; {FORM}.")
    _check_rate(path, rate)
    _check_arrays(path, **arrays)
    subjects = np.unique(arrays["subjects"], return_inverse=True)[1].astype(np.int64)
    signals = middle(arrays["signals"]).astype(np.float32)
    return Recordings(signals, arrays["labels"].astype(np.int64), subjects)


def _check_rate(path: Path, rate: Any) -> None:
    if rate is None or np.ndim(rate) != 0 or not np.issubdtype(np.asarray(rate).dtype, np.number):
        raise InputError(f"{path} must have the attribute rate, a number, got {rate!r}; {FORM}.")
    check_rate(path, float(rate))


def _check_arrays(path: Path, signals: NDArray[Any], labels: NDArray[Any], subjects: NDArray[Any]) -> None:
    for name, array in (("signals", signals), ("labels", labels), ("subjects", subjects)):
        if array.dtype.kind not in KINDS[name]:
            raise InputError(f"{path}: {name} holds values of type {array.dtype}; {FORM}.")
    if signals.ndim != 3 or signals.shape[1] != 2 or signals.shape[2] < SAMPLES:
        raise InputError(f"{path}: signals has shape {signals.shape}, not (n, 2, {SAMPLES} or more); {FORM}.")
    for name, array in (("labels", labels), ("subjects", subjects)):
        if array.shape != signals.shape[:1]:
            raise InputError(f"{path}: {name} has shape {array.shape} beside {len(signals)} signals; {FORM}.")
    wrong = (labels < 0) | (labels >= CLASSES)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{path}: the label in row {row} is {labels[row]}; {FORM}.")
    with np.errstate(over="ignore"):  # told as not finite
        broken = ~np.isfinite(signals.astype(np.float32)).all(axis=(1, 2))
    if broken.any():
        raise InputError(f"{path}: the signal in row {broken.argmax()} holds a value that is NaN or infinite; {FORM}.")
