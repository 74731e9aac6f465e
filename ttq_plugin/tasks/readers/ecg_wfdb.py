"""Reading annotated ECG records in PhysioNet's WFDB format, whole or cut into beats of the public CSVs' form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.support.limits import LARGEST_CONFIG, LARGEST_SETTINGS, check_bytes, check_size
from ttq_plugin.tasks.builtin.spectrogram import scaled
from ttq_plugin.tasks.readers.ecg_csv import SAMPLES, Beats

RATE = 125
"""Samples a second of a beat."""

RATES = (60, 10_000)
"""Samples a second of a record, least and largest."""

CLOCK = 1_000_000
"""Ticks a second of annotations, at most."""

AAMI = {"N": "NLRej", "S": "AaJS", "V": "VE", "F": "F", "Q": "/fQ"}
"""Classes 0 to 4 (ANSI/AAMI EC57), their annotation symbols: normal, supraventricular, ventricular, fusion, other."""

SAME_PERSON = {"202": "201"}
"""Records of the MIT-BIH arrhythmia database that one person gave."""

LEAD = "MLII"
"""The signal that is used, where a record has it, else its first one."""

FORM = "a folder of WFDB records is needed (.hea, .dat and beat annotations .atr each, as in the MIT-BIH database)"

UNKNOWN = "nan"
"""What wfdb gives as the symbol of a code outside its table, once it is text; real symbols have one character."""

_CLASS = {symbol: label for label, symbols in enumerate(AAMI.values()) for symbol in symbols}


@dataclass(frozen=True)
class Record:
    """One annotated record.

    Attributes:
        path: Its files without their endings.
        lead: Name of the signal.
        signal: The signal, in millivolts, shape (samples,), finite.
        rate: Samples per second.
        seconds: When each beat of an AAMI class is annotated (its R peak), shape (beats,), at least two.
        labels: int64, shape (beats,): the beats' places in ``AAMI``.
    """

    path: Path
    lead: str
    signal: NDArray[np.float64]
    rate: float
    seconds: NDArray[np.float64]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class RecordedBeats(Beats):
    """Heart beats of known records.

    Attributes:
        people: int64, shape (n,): whose beat it is, records of one person counted as one.
    """

    people: NDArray[np.int64]


def read_wfdb(folder: Path) -> RecordedBeats:
    """Read all records of a folder and cut their annotated beats.

    Records of several segments are read as one. Annotations may have a clock of their own (a time resolution in the
    annotation file).

    A beat has the form of the public CSVs (Kachuee et al. 2018): at 125 Hz from its annotation (the R peak) on, for 1.2
    times the record's median distance between beats, at most 187 samples; scaled to [0, 1], zeros after it. Beats that
    would pass the record's end are left out. Annotations that are no beat, or of no AAMI class, are ignored.

    Args:
        folder: Its ``.hea`` files, at least one, name the records; each needs its ``.atr``, but for segments of others.

    Returns:
        The beats of all records, sorted by record.

    Raises:
        InputError: If a record is damaged, not annotated or not of that form, or if wfdb is not installed.
    """
    people, parts = [], []
    for record in read_records(folder):
        people.append(SAME_PERSON.get(record.path.name, record.path.name))
        parts.append(_cut(record.signal, record.rate, record.seconds, record.labels))
    _, whose = np.unique(people, return_inverse=True)
    return RecordedBeats(
        np.concatenate([part.signals for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.repeat(whose, [len(part.labels) for part in parts]).astype(np.int64),
    )


def record_names(folder: Path) -> list[str]:
    """The records of a folder, without those that are segments of another one.

    Args:
        folder: Its ``.hea`` files name the records.

    Returns:
        Their names, sorted; one at least.

    Raises:
        InputError: If a header is damaged, or all records are segments.
    """
    headers = {path.stem: _header(path.with_suffix("")) for path in sorted(folder.glob("*.hea"))}
    segments = {name for header in headers.values() for name in getattr(header, "seg_name", None) or ()}
    names = [name for name in headers if name not in segments]
    if not names:
        raise InputError(f"{folder}: every record is a segment of another one; {FORM}.")
    return names


def read_records(folder: Path, names: list[str] | None = None) -> Iterator[Record]:
    """Read records one after another, each with the signal of its lead MLII, or its first one.

    Args:
        folder: Folder with the records.
        names: The records to read; None for all.

    Yields:
        Each of them.

    Raises:
        InputError: If a record is damaged, not annotated or not of that form, or if wfdb is not installed.
    """
    for name in record_names(folder) if names is None else names:
        yield _record(folder / name)


def _record(path: Path) -> Record:
    """One record; ``path`` without an ending."""
    lead, signal, rate, at, clock, symbols = _parsed(path)
    if not RATES[0] <= rate <= RATES[1]:
        raise InputError(f"{path}.hea: the rate must lie from {RATES[0]} to {RATES[1]} hertz, got {rate:g}; {FORM}.")
    if not (np.isfinite(clock) and 1 <= clock <= CLOCK):
        raise InputError(f"{path}.atr: the clock must have 1 to {CLOCK} hertz, got {clock:g}; {FORM}.")
    if (strange := symbols == UNKNOWN).any():
        place = int(strange.argmax())
        raise InputError(
            f"{path}.atr: annotation {place} (at {at[place] / clock:.3f} s) has a symbol that WFDB does not know; "
            f"{FORM}."
        )
    known = np.isin(symbols, list(_CLASS))
    at, labels = at[known], np.array([_CLASS[symbol] for symbol in symbols[known].tolist()], dtype=np.int64)
    if len(at) < 2:
        raise InputError(f"{path}.atr: at least 2 annotated beats are needed, got {len(at)}; {FORM}.")
    if not np.isfinite(signal).all():
        gap = int((~np.isfinite(signal)).argmax())
        raise InputError(f"{path}.dat: sample {gap} of the signal is missing or not finite; {FORM}.")
    return Record(path, lead, signal, rate, at / clock, labels)


def _header(path: Path) -> Any:
    """A record's header, wfdb's; refused if it claims more than a record has, or files outside its folder."""
    wfdb = _wfdb(path)
    check_size(Path(f"{path}.hea"), LARGEST_SETTINGS, FORM)
    try:
        header = wfdb.rdheader(str(path))
    except Exception as error:  # whatever wfdb meets in a damaged file
        raise InputError(_damaged(path, error)) from None
    names = [*(getattr(header, "seg_name", None) or ()), *(getattr(header, "file_name", None) or ())]
    if outside := [name for name in names if not name or Path(name).name != name]:
        raise InputError(f"{path}.hea names {outside[0]!r}, which must be a file in the same folder; {FORM}.")
    width = sum(getattr(header, "samps_per_frame", None) or [header.n_sig or 0])
    check_bytes(f"{path}.hea", (header.sig_len or 0, width), 8, FORM)
    return header


def _wfdb(path: Path) -> Any:
    try:
        import wfdb
    except ImportError:
        raise InputError(f"record {path} cannot be read without wfdb: install it (pip install wfdb).") from None
    return wfdb


def _damaged(path: Path, error: Exception) -> str:
    why = " ".join(str(error).split())[:200] or type(error).__name__
    return f"record {path} cannot be read, it is damaged or not WFDB ({why}); {FORM}."


def _leads(path: Path, header: Any) -> list[str]:
    """Names of a record's signals; those of one of several segments stand in the first segment."""
    if getattr(header, "seg_name", None) is None:
        return list(header.sig_name)
    if gaps := [at for at, name in enumerate(header.seg_name) if name == "~"]:
        raise InputError(f"{path}.hea: segment {gaps[0]} is a gap, where samples of the signal are missing; {FORM}.")
    real = header.seg_name
    inner = [_header(path.with_name(name)) for name in real]
    if nested := [name for name, part in zip(real, inner, strict=True) if getattr(part, "seg_name", None) is not None]:
        raise InputError(f"{path}.hea: the segment {nested[0]!r} must have no segments of its own; {FORM}.")
    return list(inner[0].sig_name)


def _parsed(path: Path) -> tuple[str, NDArray[np.float64], float, NDArray[np.int64], float, NDArray[Any]]:
    """One record's lead, its signal (samples,) and rate; place, clock and symbol of each annotation."""
    wfdb, names = _wfdb(path), _leads(path, _header(path))
    if not Path(f"{path}.atr").is_file():
        raise InputError(f"{path}.atr does not exist; {FORM}.")
    check_size(Path(f"{path}.atr"), LARGEST_CONFIG, FORM)
    try:
        channel = names.index(LEAD) if LEAD in names else 0
        record = wfdb.rdrecord(str(path), channels=[channel])
        annotations = wfdb.rdann(str(path), "atr")
        signal = np.asarray(record.p_signal[:, 0], dtype=np.float64)
        at, symbols = np.asarray(annotations.sample, dtype=np.int64), np.array(annotations.symbol, dtype=str)
        return names[channel], signal, float(record.fs), at, float(annotations.fs or record.fs), symbols
    except Exception as error:  # as above
        raise InputError(_damaged(path, error)) from None


def _cut(signal: NDArray[np.float64], rate: float, at: NDArray[np.float64], labels: NDArray[np.int64]) -> Beats:
    """Beats (n, 187) that begin at the times ``at``, in seconds, of a signal of that rate."""
    from scipy.signal import resample_poly

    ratio = (RATE / Fraction(rate)).limit_denominator(10_000)
    resampled = resample_poly(signal, ratio.numerator, ratio.denominator, padtype="line")
    length = int(np.clip(round(1.2 * float(np.median(np.diff(at))) * RATE), 1, SAMPLES))
    starts = np.rint(at * RATE).astype(np.int64)
    inside = (starts >= 0) & (starts + length <= len(resampled))
    windows = scaled(resampled[starts[inside, np.newaxis] + np.arange(length)])
    return Beats(np.pad(windows, ((0, 0), (0, SAMPLES - length))), labels[inside])
