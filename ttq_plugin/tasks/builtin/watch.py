"""`watch-cnn`: which of seven shoulder exercises a wrist performs, for ten people who wore a smartwatch.

The data are the 140 recordings inside the package seglearn, which ``pip install 'ttq-plugin[watch]'`` installs; the
package states its licence as BSD (copyright 2018, David M. Burns). They are a part of a study of physiotherapy at home
(Burns et al. 2018, arXiv:1802.01489). Each person performed each exercise about 20 times with either arm; a recording
has three axes of acceleration and three of rotation, 50 samples a second. Nothing is downloaded.

The recordings are cut into windows of two seconds (100 samples), of which a new one begins every second: 4677 windows.
Each axis is scaled by the mean and standard deviation of the training windows. Windows are split by person: six people
train, two validate and two test, drawn anew for each seed.

The recipe was chosen on validation people alone (the eight that seed 0 does not test, in four folds of two): 30 epochs
of AdamW under a one-cycle schedule, with classes of equal weight, 5 to 10 s on one core. Its Matthews correlation, for
seeds 0, 1 and 2 (mean and standard deviation): 87.5 +- 1.0 % on validation people, 83.3 +- 2.9 % on test people, who
were looked at once, afterwards. People differ more than trainings do: most mistakes take one arm raise for the other
(ABD and FEL), or one rotation for the other (IR and ER).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ttq_plugin.tasks.builtin.cnn import CNN1D
from ttq_plugin.tasks.readers.watch_file import AXES, EXERCISES, Movements, find, read
from ttq_plugin.tasks.subjects import drawn
from ttq_plugin.tasks.task import Data, Recipe, Split, Task

WINDOW = 100
"""Samples of one window: two seconds, about one repetition."""

STEP = 50
"""Samples from one window's start to the next."""

SHARE = 0.2
"""Fraction of the people that validate, and of those that test."""


class WatchCNN(CNN1D):
    """Input (batch, 6, 100), output (batch, 7) logits; 17 263 parameters."""

    def __init__(self) -> None:
        super().__init__(AXES, WINDOW, len(EXERCISES), dropout=0.2)


def windows(movements: Movements) -> tuple[Tensor, Tensor, Tensor]:
    """Cut every recording; what is left over at its end is not used.

    Args:
        movements: Recordings of at least ``WINDOW`` samples.

    Returns:
        The windows (n, 6, 100), their classes (n,), and whose they are (n,).
    """
    cut = [np.lib.stride_tricks.sliding_window_view(s, WINDOW, axis=0)[::STEP] for s in movements.series]
    counts = [len(part) for part in cut]
    labels, people = (np.repeat(values, counts) for values in (movements.labels, movements.people))
    return torch.from_numpy(np.concatenate(cut)), torch.from_numpy(labels), torch.from_numpy(people)


def load(source: Path | None, seed: int) -> Data:
    """The windows, split by person, seeded.

    Args:
        source: A file in the form of seglearn's watch_dataset.npy; None for the one in the installed package.
        seed: Random seed of the people in each split.

    Returns:
        The three splits.

    Raises:
        InputError: If the file or the package is missing, or the file is damaged or of another form.
    """
    path = find(source)
    x, y, people = windows(read(path, WINDOW))
    parts = drawn(people.numpy(), y.numpy(), len(EXERCISES), seed, share=SHARE, source=path, noun="person")
    train = x[parts[0]]
    x = (x - train.mean((0, 2), keepdim=True)) / train.std((0, 2), keepdim=True)
    training, validation, test = (Split(x[part], y[part], people[part]) for part in parts)
    return Data(training, validation, test)


WATCH_CNN = Task(
    name="watch-cnn",
    description="shoulder exercises from the movements of a watch on the wrist, seven classes, split by person; CNN of "
    "17 263 parameters",
    load=load,
    model=WatchCNN,
    loss=F.cross_entropy,
    recipe=Recipe(epochs=30, lr=1e-2, batch_size=64, weight_decay=1e-2, optimizer="adamw", schedule="one-cycle"),
    balanced=True,
    shape=(AXES, WINDOW),
    classes=EXERCISES,
)

TASKS = {task.name: task for task in (WATCH_CNN,)}
"""The tasks by name, as ``ttq_plugin.tasks.TASKS`` lists them."""
