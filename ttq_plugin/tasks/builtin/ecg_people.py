"""`ecg-cnn`: heart beats of people whom the network has not seen, by their shape and their rhythm.

The records are those of the MIT-BIH arrhythmia database in the WFDB form (.hea, .dat, .atr), split between people as
de Chazal et al. (2004, IEEE Trans. Biomed. Eng. 51:1196) did: ``TRAINING`` (DS1) trains and validates, ``TEST`` (DS2)
tests. Their four records with paced beats are left out, and so is record 202 of DS2: it comes from the man of record
201, who trains. The classes are the AAMI's N, S, V and F; beats of class Q, which are paced or unclassifiable, are not
used. A folder of other records, none of them named as one of the database, is split by record.

A sample is one beat in four rows of 128 samples (1.024 s at 125 Hz): the lead MLII around the annotated R peak,
high-pass filtered and in units of the record's typical height; what this person's beats usually look like, the mean
of the last 128, whatever their classes; and two constant rows, the logarithms of the intervals to the beat before and
to the beat after, over the median of the 16 intervals up to this beat.

The recipe was chosen on validation people alone, on 16 of the records; docs/tasks/ecg-cnn.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.builtin.cnn import CNN1D
from ttq_plugin.tasks.readers.ecg_wfdb import AAMI, LEAD, RATE, SAME_PERSON, Record, read_records, record_names
from ttq_plugin.tasks.subjects import held_out, three_ways
from ttq_plugin.tasks.task import Data, Recipe, Split, Task

TRAINING = (
    "101 106 108 109 112 114 115 116 118 119 122 124 201 203 205 207 208 209 215 220 223 230"
).split()  # fmt: skip
"""Records of DS1."""

TEST = "100 103 105 111 113 117 121 123 200 210 212 213 214 219 221 222 228 231 232 233 234".split()
"""Records of DS2 without 202, whose person trains."""

LEFT_OUT = "102 104 107 202 217".split()
"""Records with paced beats, and 202."""

CLASSES = ("N", "S", "V", "F")
"""The first four classes of the AAMI."""

SHARE = 0.2
"""Fraction of the training people who validate."""

BEFORE, SAMPLES = 48, 128
"""Samples before the R peak, and all samples of one beat."""

WANDER = 0.5
"""Hertz below which the baseline wanders."""

RECENT = 16
"""Intervals up to a beat whose median is its usual one."""

HABIT = 128
"""Beats whose mean is what a person's beats usually look like."""

LARGEST = 2.0
"""Bound of the base-2 logarithm of an interval over the usual interval."""

FORM = "a folder of WFDB records is needed (.hea, .dat and .atr each), such as the MIT-BIH arrhythmia database"


@dataclass(frozen=True)
class Beats:
    """Beats of known people, n of them.

    Attributes:
        x: float32, shape (n, 4, 128).
        labels: int64, shape (n,): places in ``CLASSES``.
        records: Names of the records they are from, shape (n,).
    """

    x: NDArray[np.float32]
    labels: NDArray[np.int64]
    records: NDArray[np.str_]


class EcgCNN(CNN1D):
    """Input (batch, 4, 128), output (batch, 4) logits; 16 556 parameters, 66 kB."""

    def __init__(self) -> None:
        super().__init__(4, SAMPLES, len(CLASSES), dropout=0.3)


def rhythm(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """How early or late beats are: 0 for a usual interval, -1 for half of it.

    Args:
        seconds: When the beats of a record are, rising, shape (beats,).

    Returns:
        For each beat but the first and the last, shape (beats - 2, 2): the logarithms to base 2 of the intervals to the
        beat before and to the one after, over the median of at most 16 intervals that end with the former; within
        [-2, 2].
    """
    intervals = np.diff(seconds)
    padded = np.concatenate([np.full(RECENT - 1, np.nan), intervals[:-1]])
    usual = np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, RECENT), axis=1)
    ratios = np.stack([intervals[:-1], intervals[1:]], axis=1) / usual[:, np.newaxis]
    clipped: NDArray[np.float64] = np.clip(np.log2(ratios), -LARGEST, LARGEST)
    return clipped


def typical(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of at most ``HABIT`` beats that end with each one, sample by sample; shape as ``windows``."""
    total = np.concatenate([np.zeros_like(windows[:1]), np.cumsum(windows, axis=0)])
    last = np.arange(1, len(total))
    first = np.maximum(0, last - HABIT)
    found: NDArray[np.float64] = (total[last] - total[first]) / (last - first)[:, np.newaxis]
    return found


def beats_of(record: Record) -> Beats:
    """Cut a record into beats; the first and the last, and those that would pass its ends, are left out.

    Args:
        record: One record of the lead MLII.

    Returns:
        Its beats of the four classes.

    Raises:
        InputError: If the record has another lead, a flat signal, or beats that are not one after another.
    """
    from scipy.signal import butter, resample_poly, sosfiltfilt

    if record.lead != LEAD:
        raise InputError(f"{record.path}.hea must have the lead {LEAD}, but its first one is {record.lead}; {FORM}.")
    if len(record.seconds) < 3:
        raise InputError(f"{record.path}.atr must have at least 3 beats, got {len(record.seconds)}; {FORM}.")
    if (back := np.diff(record.seconds) <= 0).any():
        at = int(back.argmax()) + 1
        raise InputError(
            f"{record.path}.atr: beat {at} must come after beat {at - 1}, both are at {record.seconds[at]:.3f} s or "
            f"out of order; {FORM}."
        )
    ratio = (RATE / Fraction(record.rate)).limit_denominator(10_000)
    resampled = resample_poly(record.signal, ratio.numerator, ratio.denominator, padtype="line")
    filtered = sosfiltfilt(butter(2, WANDER, "highpass", fs=RATE, output="sos"), resampled)
    starts = np.rint(record.seconds[1:-1] * RATE).astype(np.int64) - BEFORE
    inside = (starts >= 0) & (starts + SAMPLES <= len(filtered))
    windows = filtered[starts[inside, np.newaxis] + np.arange(SAMPLES)]
    height = float(np.median(np.ptp(windows, axis=1))) if len(windows) else 0.0
    if height < 1e-6:
        raise InputError(f"{record.path}.dat is flat where its beats are annotated, or too short for one; {FORM}.")
    labels, rows = record.labels[1:-1][inside], rhythm(record.seconds)[inside]
    used = labels < len(CLASSES)
    shapes = np.stack([windows, typical(windows)], axis=1) / height
    x = np.concatenate([shapes, np.repeat(rows[..., np.newaxis], SAMPLES, axis=2)], axis=1)
    return Beats(x[used].astype(np.float32), labels[used], np.full(int(used.sum()), record.path.name))


def usual_split(folder: Path) -> tuple[list[str], bool]:
    """Which records of a folder are used, and whether they are split as the database's usually are.

    Args:
        folder: The folder of WFDB records.

    Returns:
        The records' names; whether all are the database's.

    Raises:
        InputError: If some are and some are not, or only one side of the usual split is there.
    """
    names = record_names(folder)
    database = [name for name in names if name in {*TRAINING, *TEST, *LEFT_OUT}]
    if not database:
        return names, False
    if strange := [name for name in names if name not in database]:
        raise InputError(
            f"{folder}/{strange[0]}.hea is not a record of the MIT-BIH arrhythmia database, but {database[0]}.hea "
            f"is; put "
            "other records into a folder of their own, which is split by record."
        )
    for words, part in (("training", TRAINING), ("test", TEST)):
        if not set(part) & set(database):
            raise InputError(f"{folder} holds none of the {words} records {', '.join(part)}; {FORM}.")
    return [name for name in database if name not in LEFT_OUT], True


def load(source: Path | None, seed: int) -> Data:
    """The beats, split between people; the seed draws which of the training people validate.

    Args:
        source: The folder of records; there is no default.
        seed: Random seed of the splits.

    Returns:
        The three splits, with the records' names as groups.

    Raises:
        InputError: Without a folder, or if its records are damaged, not of that form, or too few.
    """
    if source is None or not source.is_dir() or not any(source.glob("*.hea")):
        came = "none was given with --data" if source is None else f"{source} is none"
        raise InputError(f"{FORM}; {came}: ttq_plugin ships no data.")
    names, usual = usual_split(source)
    parts = [beats_of(record) for record in read_records(source, names)]
    x, y, records = (np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "labels", "records"))
    people = np.array([SAME_PERSON.get(name, name) for name in records.tolist()])
    _check_classes(source, y[np.isin(records, TEST)] if usual else y, "test " if usual else "")
    _, groups = np.unique(people, return_inverse=True)
    if usual:
        rest = np.flatnonzero(np.isin(records, TRAINING))
        chosen = held_out(groups[rest], y[rest], len(CLASSES), seed, share=SHARE, source=source, noun="record")
        rows = (*(rest[part] for part in chosen), np.flatnonzero(np.isin(records, TEST)))
    else:
        rows = three_ways(groups, y, len(CLASSES), seed, source=source, noun="record")
    train, validation, test = (
        Split(torch.from_numpy(x[part]), torch.from_numpy(y[part]), people[part]) for part in rows
    )
    return Data(train, validation, test)


def _check_classes(folder: Path, labels: NDArray[np.int64], words: str) -> None:
    for label, name in enumerate(CLASSES):
        if not (labels == label).any():
            symbols = ", ".join(AAMI[name])
            raise InputError(f"{folder}: no beat of its {words}records is of class {name} (symbols {symbols}); {FORM}.")


ECG_CNN = Task(
    name="ecg-cnn",
    description="heart beats by shape and rhythm, four AAMI classes (MIT-BIH's WFDB records), the usual split between "
    "people; 1-D CNN of 16 556 parameters",
    load=load,
    model=EcgCNN,
    loss=F.cross_entropy,
    recipe=Recipe(epochs=6, lr=2e-3, batch_size=128, weight_decay=1e-2, optimizer="adamw", schedule="one-cycle"),
    shape=(4, SAMPLES),
    classes=CLASSES,
)

TASKS = {task.name: task for task in (ECG_CNN,)}
"""The tasks by name, as ``ttq_plugin.tasks.TASKS`` lists them."""
