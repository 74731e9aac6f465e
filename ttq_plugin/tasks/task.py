"""What a task is: data, model and the recipe that trains it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.forward import PRECISIONS, check_dropout
from ttq_plugin.tasks.schedules import OPTIMIZERS, SCHEDULES, Course

Loss = Callable[[Tensor, Tensor], Tensor]
"""``(logits, labels) -> scalar``."""


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
    """Three disjoint splits. A search trains on the first, decides by the second, and is never handed the third.

    Attributes:
        train: learned.
        validation: decided by.
        test: scored once, at the end.
        simulated: whether no person, animal or thing was ever measured for them; every output then says so.
    """

    train: Split
    validation: Split
    test: Split
    simulated: bool = False

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
    """How the full-precision model is trained.

    Attributes:
        epochs: passes over the training split.
        lr: initial learning rate; with "one-cycle" its peak.
        batch_size: samples a step.
        weight_decay: of the optimiser.
        optimizer: a key of ``OPTIMIZERS``.
        schedule: a key of ``SCHEDULES``.
        width: of the model's tokens; "noam" needs it.
        warmup: steps in which "noam" rises.
        precision: a key of ``PRECISIONS``: of the forward and backward pass in training; all else is float32.
        dropout: probability of every dropout while training; None for the model's own.

    Raises:
        InputError: for another optimiser, schedule or precision, or a dropout outside [0, 1).
    """

    epochs: int
    lr: float
    batch_size: int = 32
    weight_decay: float = 0.0
    optimizer: str = "adamax"
    schedule: str = "cosine"
    width: int = 0
    warmup: int = 4000
    precision: str = "float32"
    dropout: float | None = None

    def __post_init__(self) -> None:
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if (value := getattr(self, name)) not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
        check_dropout(self.dropout)

    def course(self, lr: float, epochs: int, samples: int) -> Course:
        """What the schedule of a training with this recipe is fitted to."""
        return Course(lr, epochs, math.ceil(samples / self.batch_size), self.width, self.warmup)

    def fingerprint(self) -> str:
        """A short hash, part of the names of what is cached."""
        # Adamax with a cosine was all there was: left out, so that the models of that time are still found.
        items = asdict(self)
        if (self.optimizer, self.schedule) == ("adamax", "cosine"):
            del items["optimizer"], items["schedule"]
        if self.schedule != "noam":
            del items["width"], items["warmup"]
        for name, default in (("precision", "float32"), ("dropout", None)):
            if items[name] == default:
                del items[name]
        return hashlib.sha256(repr(sorted(items.items())).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Task:
    """Data, model and recipe under a name.

    Attributes:
        name: as on the command line.
        description: one line for people.
        load: ``(source, seed) -> Data``; ``source`` is the user's file, or None for the embedded or environment's one.
        model: makes an untrained model (its initial weights come from torch's global generator).
        loss: ``(logits, labels) -> scalar``, every sample weighing the same; with a keyword ``weight`` if balanced.
        recipe: how the full-precision model is trained.
        balanced: whether ``loss_for`` gives every class the same weight, however rare it is.
        shape: of one sample, without the batch: what the model takes, known without loading data.
    """

    name: str
    description: str
    load: Callable[[Path | None, int], Data]
    model: Callable[[], nn.Module]
    loss: Callable[..., Tensor]
    recipe: Recipe
    balanced: bool = False
    shape: tuple[int, ...] = ()

    def loss_for(self, train: Split) -> Loss:
        """The loss to train with.

        Args:
            train: the training split, on the device of the training.

        Returns:
            ``loss``; if balanced, with the weight n / (classes n_c) for a class that n_c of the n samples have.
        """
        weights = self.class_weights(train)
        return self.loss if weights is None else partial(self.loss, weight=weights)

    def class_weights(self, train: Split) -> Tensor | None:
        """Samples / (classes n_c) for a class that n_c samples have, shape (classes,); None if not balanced."""
        if not self.balanced:
            return None
        counts = train.y.bincount()
        return len(train) / (len(counts) * counts.float())
