"""`esr-*`: epileptic seizures in one second of EEG (Kaggle's form of the Bonn recordings), and the papers' two models.

The file holds 500 recordings, each cut into 23 chunks. Chunks of one recording are alike, so a model must be scored on
recordings it has not seen: that is the default. The papers split the rows at random (`-rows`), which scores higher.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from ttq_plugin.tasks.builtin.cnn import CNN2D
from ttq_plugin.tasks.builtin.spectrogram import scaled, spectrogram
from ttq_plugin.tasks.builtin.transformer import CNNTransformer
from ttq_plugin.tasks.readers.esr_csv import find, read
from ttq_plugin.tasks.splits import stratified_groups
from ttq_plugin.tasks.task import Data, Recipe, Split, Task

SHARES = {"": 0.15, "-rows": 0.1}
"""Share of the recordings, or rows, for validation, and again for testing; the papers test on 10 % of the rows."""

CLASSES = {"": 2, "-5": 5}
"""Seizure (label 1) against the other four, or all five."""

Signals = NDArray[np.float64]
View = Callable[[Signals], NDArray[np.floating]]


@dataclass(frozen=True)
class Kind:
    """What distinguishes the two models' tasks.

    Attributes:
        model: Makes one for a number of classes.
        view: Scaled signals (n, 178) -> the model's input without its channel (n, ...).
        words: The model and its input, for people.
        recipe: The training recipe.
        shape: Shape of one sample, with its channel.
    """

    model: Callable[..., nn.Module]
    view: View
    words: str
    recipe: Recipe
    shape: tuple[int, ...]


KINDS = {
    "2dcnn": Kind(
        model=CNN2D,
        view=spectrogram,
        words="spectrograms 32x37; 2D CNN of 1.56 million parameters",
        recipe=Recipe(epochs=8, lr=1e-3, batch_size=32, weight_decay=1e-2, optimizer="adamw", schedule="one-cycle"),
        shape=(1, 32, 37),
    ),
    "cnn-transformer": Kind(
        model=CNNTransformer,
        view=lambda signals: signals,
        words="signals of 178 samples; CNN-Transformer of 0.11 million parameters",
        recipe=Recipe(epochs=40, lr=1e-3, batch_size=64, weight_decay=1e-2, optimizer="adamw", schedule="one-cycle"),
        shape=(1, 178),
    ),
}


def load(source: Path | None, seed: int, *, view: View, split: str, classes: int) -> Data:
    """The EEG chunks, stratified by their five classes and seeded.

    Args:
        source: The CSV, plain or .gz; None for the one in the folder TTQ_DATA_DIR.
        seed: Random seed of the splits.
        view: See ``Kind``.
        split: A key of ``SHARES``.
        classes: 2 or 5.

    Returns:
        The three splits; inputs (n, 1, ...), label 1 for a seizure, or the file's labels less one. The groups are the
        recordings, except where rows are split, which leaves recordings on both sides.

    Raises:
        InputError: If the file is missing, damaged, or not of that form.
    """
    chunks = read(find(source))
    groups = np.arange(len(chunks.labels)) if split == "-rows" else chunks.recordings
    share = SHARES[split]
    rest, third = stratified_groups(groups, chunks.labels, share, seed)
    first, second = (
        rest[part] for part in stratified_groups(groups[rest], chunks.labels[rest], share / (1 - share), seed)
    )
    x = torch.from_numpy(view(scaled(chunks.signals))).float().unsqueeze(1)
    y = torch.from_numpy(chunks.labels - 1 if classes == 5 else (chunks.labels == 1).astype(np.int64))
    named = None if split == "-rows" else chunks.recordings
    train, validation, test = (
        Split(x[part], y[part], None if named is None else named[part]) for part in (first, second, third)
    )
    return Data(train, validation, test)


def _task(model: str, split: str, classes: str) -> Task:
    kind, count = KINDS[model], CLASSES[classes]
    seen = "rows at random, as the papers" if split else "by recording"
    return Task(
        name=f"esr-{model}{split}{classes}",
        description=f"epileptic seizures in EEG, {count} classes, split {seen}; {kind.words}",
        load=partial(load, view=kind.view, split=split, classes=count),
        model=partial(kind.model, classes=count),
        loss=F.cross_entropy,
        recipe=kind.recipe,
        balanced=True,
        shape=kind.shape,
    )


TASKS = {task.name: task for task in (_task(*parts) for parts in product(KINDS, SHARES, CLASSES))}
