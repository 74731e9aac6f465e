"""`cifar10-resnet8` and `cifar10-resnet20`: which of ten things a picture of 32x32 pixels shows.

The pictures are CIFAR-10's (Krizhevsky 2009), in its binary version or as images in folders by class. They name no
group, so that a tenth of the training pictures, drawn with their classes' proportions, validates; CIFAR-10's own test
pictures test. In training each picture is mirrored at random and moved by up to four pixels, as He et al. (2016) did.

ResNet-8 has a recipe of few epochs, as one takes about a minute on a core; ResNet-20's is for those with a GPU.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.builtin.resnet import ResNet
from ttq_plugin.tasks.readers.cifar import CLASSES, FORM, SIDE, Images, read_images
from ttq_plugin.tasks.splits import stratified
from ttq_plugin.tasks.task import Data, Recipe, Task

SHARE = 0.1
"""Fraction of the training pictures that validate."""

SHIFT = 4
"""Pixels that a picture moves at most, in training."""

LEAST = 10
"""Training pictures of each class: fewer cannot be split."""


class Pictures(Dataset[tuple[Tensor, int]]):
    """Pictures that are converted to floats on access, scaled by the training pictures' mean and deviation.

    Attributes:
        pixels: uint8, shape (n, 3, 32, 32).
        labels: int64, shape (n,).
        scale: Mean and standard deviation of each channel, each of shape (3, 1, 1), in the pixels' units.
        moved: Whether each one is mirrored and moved at random, as in training.
    """

    def __init__(self, images: Images, scale: tuple[Tensor, Tensor], *, moved: bool) -> None:
        self.pixels = torch.from_numpy(np.ascontiguousarray(images.pixels))
        self.labels = images.labels.tolist()
        self.scale = scale
        self.moved = moved

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        """One picture, shape (3, 32, 32), and its class."""
        mean, deviation = self.scale
        picture = (self.pixels[place].float() - mean) / deviation
        if self.moved:
            across, down, mirrored = (int(n) for n in torch.randint(2 * SHIFT + 1, (3,)))
            padded = F.pad(picture, (SHIFT, SHIFT, SHIFT, SHIFT))
            picture = padded[:, down : down + SIDE, across : across + SIDE]
            picture = picture.flip(2) if mirrored % 2 else picture
        return picture, self.labels[place]

    def fingerprint(self) -> str:
        """A hash of what the pictures are made of, which takes no pass over them in floating point."""
        found = hashlib.sha256(self.pixels.numpy().tobytes())
        found.update(np.array(self.labels).tobytes())
        for part in self.scale:
            found.update(part.numpy().tobytes())
        return f"{found.hexdigest()}-{self.moved}"


def _taken(images: Images, rows: NDArray[np.int64]) -> Images:
    return Images(images.pixels[rows], images.labels[rows])


def load(source: Path | None, seed: int) -> Data:
    """The pictures; the seed draws which of the training ones validate.

    Args:
        source: The folder; there is no default.
        seed: Random seed of the split.

    Returns:
        The three splits.

    Raises:
        InputError: Without a folder, or if its files are damaged, not of that form, or too few.
    """
    if source is None or not source.is_dir():
        came = "none was given with --data" if source is None else f"{source} is none"
        raise InputError(f"{FORM}; {came}: ttq_plugin ships no data.")
    rest, test = read_images(source)
    counts = np.bincount(rest.labels, minlength=len(CLASSES))
    if counts.min() < LEAST:
        raise InputError(
            f"{source}: class {CLASSES[counts.argmin()]} has {counts.min()} pictures to train on, at least {LEAST} are "
            f"needed; {FORM}."
        )
    train, validation = (_taken(rest, rows) for rows in stratified(rest.labels, SHARE, seed))
    mean, deviation = ([], [])
    for channel in range(3):
        values = train.pixels[:, channel]
        mean.append(values.mean())
        deviation.append(max(float(values.std()), 1.0))
    scale = (torch.tensor(mean).float().view(3, 1, 1), torch.tensor(deviation).float().view(3, 1, 1))
    learned, decided, scored = (Pictures(part, scale, moved=part is train) for part in (train, validation, test))
    return Data(learned, decided, scored)


def _task(blocks: int, words: str, recipe: Recipe) -> Task:
    layers = 6 * blocks + 2
    return Task(
        name=f"cifar10-resnet{layers}",
        description=f"pictures of ten classes, CIFAR-10; ResNet-{layers} of {words} parameters",
        load=load,
        model=partial(ResNet, blocks),
        loss=F.cross_entropy,
        recipe=recipe,
        shape=(3, SIDE, SIDE),
        classes=CLASSES,
    )


CIFAR10_RESNET8 = _task(
    1,
    "77 946",
    Recipe(epochs=10, lr=1e-2, batch_size=128, weight_decay=1e-2, optimizer="adamw", schedule="one-cycle"),
)

CIFAR10_RESNET20 = _task(
    3,
    "0.27 million",
    Recipe(epochs=100, lr=1e-2, batch_size=128, weight_decay=5e-2, optimizer="adamw", schedule="one-cycle"),
)

TASKS = {task.name: task for task in (CIFAR10_RESNET8, CIFAR10_RESNET20)}
"""Their recipes are sensible guesses, not tuned."""
