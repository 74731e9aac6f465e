"""`ecg-*`: heart beats in an electrocardiogram, two models.

Five classes (MIT-BIH arrhythmia database; its WFDB records or the public CSVs) or, `-ptb`, normal against abnormal
(PTB, the public CSVs). The CSVs name no patient, so that beats of one person lie on both sides of a split, and scores
flatter; WFDB records are split by person.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.builtin.cnn import CNN2D
from ttq_plugin.tasks.builtin.spectrogram import scaled, spectrogram
from ttq_plugin.tasks.builtin.transformer import CNNTransformer
from ttq_plugin.tasks.readers.ecg_csv import SAMPLES, Beats, read_csv
from ttq_plugin.tasks.readers.ecg_wfdb import AAMI, RecordedBeats, read_wfdb
from ttq_plugin.tasks.splits import stratified
from ttq_plugin.tasks.subjects import three_ways
from ttq_plugin.tasks.task import Data, Recipe, Split, Task

SHARE = 0.15
"""Share of the beats for validation, and of PTB's beats for testing; MIT-BIH has a test file of its own."""

LEAST = 10
"""Rows of each class in a file that is split: fewer cannot be spread over three splits."""

MITBIH = ("mitbih_train.csv", "mitbih_test.csv")
PTB = ("ptbdb_normal.csv", "ptbdb_abnormal.csv")

FORMS = {
    "": f"a folder with {MITBIH[0]} and {MITBIH[1]}, or with WFDB records (.hea, .dat and .atr each), is needed",
    "-ptb": f"a folder with {PTB[0]} and {PTB[1]} is needed",
}

Parts = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
View = Callable[[NDArray[np.float64]], NDArray[np.floating]]


def mitbih(folder: Path, seed: int) -> tuple[Beats, Parts]:
    """Five classes: the CSVs (the test file tests), or else WFDB records, split by person.

    Args:
        folder: See ``FORMS``.
        seed: Random seed of the splits.

    Returns:
        All beats, and which of them train, validate and test.

    Raises:
        InputError: If the files are missing, damaged, not of that form, or have too few beats or records of a class.
    """
    if not any((folder / name).exists() for name in MITBIH):
        if not any(folder.glob("*.hea")):
            raise InputError(f"{FORMS['']}; {folder} holds neither.")
        beats = read_wfdb(folder)
        return beats, three_ways(beats.people, beats.labels, len(AAMI), seed, source=folder, noun="record")
    classes = tuple(range(len(AAMI)))
    first, last = (read_csv(folder / name, classes, least) for name, least in zip(MITBIH, (LEAST, 1), strict=True))
    train, validation = stratified(first.labels, SHARE, seed)
    return _joined(first, last), (train, validation, np.arange(len(last.labels)) + len(first.labels))


def ptb(folder: Path, seed: int) -> tuple[Beats, Parts]:
    """Two classes, each of its own CSV, rows split at random; arguments and result as ``mitbih``."""
    beats = _joined(*(read_csv(folder / name, (label,), LEAST) for label, name in enumerate(PTB)))
    rest, test = stratified(beats.labels, SHARE, seed)
    train, validation = stratified(beats.labels[rest], SHARE / (1 - SHARE), seed)
    return beats, (rest[train], rest[validation], test)


def _joined(first: Beats, last: Beats) -> Beats:
    return Beats(np.concatenate([first.signals, last.signals]), np.concatenate([first.labels, last.labels]))


SETS = {
    "": (mitbih, len(AAMI), "five AAMI classes (MIT-BIH), WFDB records split by person, the CSVs' beats at random"),
    "-ptb": (ptb, len(PTB), "normal or abnormal (PTB), the CSVs' beats split at random"),
}
"""By the ending of a task's name: what reads and splits the beats, the number of classes, and a description."""


def load(source: Path | None, seed: int, *, view: View, ending: str) -> Data:
    """The beats, seeded.

    Args:
        source: The folder, see ``FORMS``; there is no default.
        seed: Random seed of the splits.
        view: Beats (n, 187), each scaled to [0, 1] -> the model's input without its channel (n, ...).
        ending: A key of ``SETS``.

    Returns:
        The three splits; inputs (n, 1, ...). Labels 0 to 4 in the order of ``AAMI``, or 0 normal and 1 abnormal. The
        groups are people where the beats are of records; the CSVs name none.

    Raises:
        InputError: Without a folder, or if its files are missing, damaged, or not of that form.
    """
    if source is None or not source.is_dir():
        came = "none was given with --data" if source is None else f"{source} is none"
        raise InputError(f"{FORMS[ending]}; {came}: ttq_plugin ships no data.")
    beats, parts = SETS[ending][0](source, seed)
    # In parts: the transforms of all 109 000 beats of MIT-BIH at once would take gigabytes.
    signals = np.array_split(scaled(beats.signals), len(beats.labels) // 4096 + 1)
    x = torch.cat([torch.from_numpy(view(part)).float() for part in signals]).unsqueeze(1)
    y = torch.from_numpy(beats.labels)
    people = beats.people if isinstance(beats, RecordedBeats) else None
    train, validation, test = (Split(x[part], y[part], None if people is None else people[part]) for part in parts)
    return Data(train, validation, test)


MODELS: dict[str, tuple[Callable[..., nn.Module], View, str, int, tuple[int, ...]]] = {
    "2dcnn": (partial(CNN2D, 1, 32, 39), spectrogram, "spectrograms 32x39; 2D CNN", 10, (1, 32, 39)),
    "cnn-transformer": (
        partial(CNNTransformer, 1, SAMPLES),
        lambda beats: beats,
        "187 samples; CNN-Transformer",
        20,
        (1, SAMPLES),
    ),
}
"""What makes the model, its view of the beats, words for people, epochs, a sample's shape."""


def _task(model: str, ending: str) -> Task:
    make, view, words, epochs, shape = MODELS[model]
    _, classes, kinds = SETS[ending]
    return Task(
        name=f"ecg-{model}{ending}",
        description=f"heart beats, {kinds}; {words}",
        load=partial(load, view=view, ending=ending),
        model=partial(make, classes=classes),
        loss=F.cross_entropy,
        recipe=Recipe(epochs, lr=1e-3, batch_size=64, weight_decay=1e-2, optimizer="adamw", schedule="one-cycle"),
        balanced=True,
        shape=shape,
    )


TASKS = {task.name: task for task in (_task(*parts) for parts in product(MODELS, SETS))}
"""Their recipes are sensible guesses, not tuned."""
