"""What a task is: data, model and the recipe that trains it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn


@dataclass(frozen=True)
class Split:
    """Samples and labels.

    Attributes:
        x: inputs, float32, shape (samples, ...).
        y: class indices, int64, shape (samples,).
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: str) -> Split:
        """The same samples on ``device``."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Data:
    """Three disjoint splits. A search trains on the first, decides by the second, and is never handed the third."""

    train: Split
    validation: Split
    test: Split

    def fingerprint(self) -> str:
        """A short hash of the training and validation samples, part of the names of what is cached."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation):
            for tensor in (split.x, split.y):
                digest.update(str(tuple(tensor.shape)).encode())
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Recipe:
    """How the full-precision model is trained: Adamax with a cosine schedule.

    Attributes:
        epochs: passes over the training split.
        lr: initial learning rate.
        batch_size: samples a step.
        weight_decay: of the optimiser.
    """

    epochs: int
    lr: float
    batch_size: int = 32
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Task:
    """Data, model and recipe under a name.

    Attributes:
        name: as on the command line.
        description: one line for people.
        load: ``(source, seed) -> Data``; ``source`` is the user's file, or None for the embedded or environment's one.
        model: makes an untrained model (its initial weights come from torch's global generator).
        loss: ``(logits, labels) -> scalar``.
        recipe: how the full-precision model is trained.
    """

    name: str
    description: str
    load: Callable[[Path | None, int], Data]
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    recipe: Recipe
