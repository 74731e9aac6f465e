"""Reading annotated ECG records in PhysioNet's WFDB format and cutting them into beats of the public CSVs' form."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.ecg_csv import SAMPLES, Beats
from ttq_plugin.tasks.spectrogram import scaled

RATE = 125
"""Samples a second of a beat."""

RATES = (60, 10_000)
"""Samples a second of a record, least and largest."""

AAMI = {"N": "NLRej", "S": "AaJS", "V": "VE", "F": "F", "Q": "/fQ"}
"""Classes 0 to 4 (ANSI/AAMI EC57), their annotation symbols: normal, supraventricular, ventricular, fusion, other."""

SAME_PERSON = {"202": "201"}
"""Records of the MIT-BIH arrhythmia database that one person gave."""

LEAD = "MLII"
"""The signal that is used, where a record has it, else its first one."""

FORM = "a folder of WFDB records is needed (.hea, .dat and beat annotations .atr each, as in the MIT-BIH database)"

_CLASS = {symbol: label for label, symbols in enumerate(AAMI.values()) for symbol in symbols}


@dataclass(frozen=True)
class RecordedBeats(Beats):
    """Heart beats of known records.

    Attributes:
        people: int64, shape (n,): whose beat it is, records of one person counted as one.
    """

    people: NDArray[np.int64]


def read_wfdb(folder: Path) -> RecordedBeats:
    """Read all records of a folder and cut their annotated beats.

    A beat has the form of the public CSVs (Kachuee et al. 2018): at 125 Hz from its annotation (the R peak) on, for 1.2
    times the record's median distance between beats, at most 187 samples; scaled to [0, 1], zeros after it. Beats that
    would pass the record's end are left out. Annotations that are no beat, or of no AAMI class, are ignored.

    Args:
        folder: its ``.hea`` files, at least one, name the records; each needs its ``.atr``.

    Returns:
        The beats of all records, sorted by record.

    Raises:
        InputError: if a record is damaged, not annotated or not of that form, or if wfdb is not installed.
    """
    names = sorted(path.stem for path in folder.glob("*.hea"))
    parts = [_record(folder / name) for name in names]
    _, people = np.unique([SAME_PERSON.get(name, name) for name in names], return_inverse=True)
    return RecordedBeats(
        np.concatenate([part.signals for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.repeat(people, [len(part.labels) for part in parts]).astype(np.int64),
    )


def _record(path: Path) -> Beats:
    """The beats of one record; ``path`` without an ending."""
    signal, rate, at, symbols = _parsed(path)
    if not RATES[0] <= rate <= RATES[1]:
        raise InputError(f"{path}.hea: the rate must lie from {RATES[0]} to {RATES[1]} hertz, got {rate:g}; {FORM}.")
    known = np.isin(symbols, list(_CLASS))
    at, labels = at[known], np.array([_CLASS[symbol] for symbol in symbols[known].tolist()], dtype=np.int64)
    if len(at) < 2:
        raise InputError(f"{path}.atr: at least 2 annotated beats are needed, got {len(at)}; {FORM}.")
    if not np.isfinite(signal).all():
        gap = int((~np.isfinite(signal)).argmax())
        raise InputError(f"{path}.dat: sample {gap} of the signal is missing or not finite; {FORM}.")
    return _cut(signal, rate, at, labels)


def _parsed(path: Path) -> tuple[NDArray[np.float64], float, NDArray[np.int64], NDArray[Any]]:
    """One record's signal (samples,), its rate, and place and symbol of each annotation."""
    try:
        import wfdb
    except ImportError:
        raise InputError(f"record {path} cannot be read without wfdb: install it (pip install wfdb).") from None
    if not Path(f"{path}.atr").is_file():
        raise InputError(f"{path}.atr does not exist; {FORM}.")
    try:
        names = wfdb.rdheader(str(path)).sig_name
        record = wfdb.rdrecord(str(path), channels=[names.index(LEAD) if LEAD in names else 0])
        annotations = wfdb.rdann(str(path), "atr")
        signal = np.asarray(record.p_signal[:, 0], dtype=np.float64)
        at, symbols = np.asarray(annotations.sample, dtype=np.int64), np.array(annotations.symbol, dtype=str)
        return signal, float(record.fs), at, symbols
    except Exception as error:  # whatever wfdb meets in a damaged file
        raise InputError(f"record {path} cannot be read, it is damaged or not WFDB ({error}); {FORM}.") from None


def _cut(signal: NDArray[np.float64], rate: float, at: NDArray[np.int64], labels: NDArray[np.int64]) -> Beats:
    """Beats (n, 187) that begin at the samples ``at`` of a signal of that rate."""
    from scipy.signal import resample_poly

    ratio = (RATE / Fraction(rate)).limit_denominator(10_000)
    resampled = resample_poly(signal, ratio.numerator, ratio.denominator, padtype="line")
    length = int(np.clip(round(1.2 * float(np.median(np.diff(at))) / rate * RATE), 1, SAMPLES))
    starts = np.rint(at * RATE / rate).astype(np.int64)
    inside = (starts >= 0) & (starts + length <= len(resampled))
    windows = scaled(resampled[starts[inside, np.newaxis] + np.arange(length)])
    return Beats(np.pad(windows, ((0, 0), (0, SAMPLES - length))), labels[inside])
