"""Defines a task: data, model and the recipe that trains it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ttq_plugin.errors import InputError
from ttq_plugin.support import inputs
from ttq_plugin.support.arguments import check_types, shown
from ttq_plugin.support.names import check_name
from ttq_plugin.tasks.forward import PRECISIONS, check_dropout
from ttq_plugin.tasks.metrics import Metric, get_metric
from ttq_plugin.tasks.samples import Samples, Split, as_samples
from ttq_plugin.tasks.schedules import OPTIMIZERS, SCHEDULES, Course
from ttq_plugin.tasks.scoring.readings import IGNORED
from ttq_plugin.tasks.values import check_workers, classes_of, shape_of

__all__ = ["SPLITS", "Data", "Loss", "Recipe", "Split", "Task"]

SPLITS = ("train", "validation", "test")

Loss = Callable[[Any, Any], Tensor]
"""``(outputs, targets) -> scalar``."""


@dataclass(frozen=True)
class Data:
    """Three disjoint splits: models train on the first, decisions use the second, and the third is scored at the end.

    Attributes:
        train: Training split: a Split, or a map-style torch Dataset that yields (x, y) or (x, y, group).
        validation: Split on which all decisions are made, of the same types.
        test: Split that is scored once, at the end, of the same types.
        simulated: Whether the data are simulated; every output then says so.
        collate: Function that makes a batch (x, y) from a list of pairs, for example of sequences of unequal length.
        workers: Number of processes that read ahead from a Dataset.
        overlap: Whether equal samples in two splits are intended.

    Raises:
        InputError: If a split is neither a Split nor a map-style Dataset, a Split's tensors and groups have unequal
            lengths, or an option has another type.
    """

    train: Samples
    validation: Samples
    test: Samples
    simulated: bool = False
    collate: Callable[[list[Any]], Any] | None = None
    workers: int = 0
    overlap: bool = False

    if TYPE_CHECKING:  # what may be given, of which __post_init__ makes what is kept

        def __init__(
            self,
            train: Samples | Dataset[Any],
            validation: Samples | Dataset[Any],
            test: Samples | Dataset[Any],
            simulated: bool = False,
            collate: Callable[[list[Any]], Any] | None = None,
            workers: int = 0,
            overlap: bool = False,
        ) -> None: ...

    def __post_init__(self) -> None:
        check_workers(self.workers)
        for name in SPLITS:
            samples = as_samples(getattr(self, name), name, self.collate, self.workers)
            object.__setattr__(self, name, samples)
        for name in ("simulated", "overlap"):
            if not isinstance(value := getattr(self, name), bool):
                raise InputError(f"{name} of Data must be True or False, got {shown(value)}.")
        if self.collate is not None and not callable(self.collate):
            raise InputError(f"collate of Data must be a function or None, got {shown(self.collate)}.")

    def fingerprint(self) -> str:
        """A short hash of the training and validation samples, part of the names of what is cached."""
        digest = hashlib.sha256("".join(split.digest() for split in (self.train, self.validation)).encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Recipe:
    """How the full-precision model is trained.

    Attributes:
        epochs: Number of passes over the training split.
        lr: Initial learning rate; with the schedule "one-cycle", its peak.
        batch_size: Number of samples per step.
        weight_decay: Weight decay of the optimiser.
        optimizer: A key of ``OPTIMIZERS``.
        schedule: A key of ``SCHEDULES``.
        width: Width of the model's tokens, which the schedule "noam" needs.
        warmup: Number of steps in which the schedule "noam" rises.
        precision: Precision of the forward and backward pass in training, a key of ``PRECISIONS``; all else is float32.
        dropout: Probability of every dropout while training; None for the model's own.

    Raises:
        InputError: If the optimiser, schedule or precision is unknown, or a number is out of range.
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
            if not isinstance(value := getattr(self, name), str) or value not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
        for name in ("epochs", "batch_size"):
            if isinstance(value := getattr(self, name), bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} of a recipe must be a positive whole number, got {value!r}.")
        check_types(Recipe, vars(self))
        check_dropout(self.dropout)
        if not 0 < self.lr < math.inf:
            raise InputError(f"lr of a recipe must be positive and finite, got {self.lr!r}.")
        for name in ("weight_decay", "width", "warmup"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise InputError(f"{name} of a recipe must be at least 0 and finite, got {value!r}.")

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
        name: Name of the task, as on the command line.
        description: Description in one line.
        load: Function ``(source, seed) -> Data``. ``source`` is the user's file, or None for embedded data or a file
            named in the environment. Equal arguments must give equal data.
        model: Function that makes an untrained model; its initial weights come from torch's global generator.
        loss: Function ``(outputs, targets) -> scalar`` in which all samples have the same weight. If the task is
            balanced, it takes a keyword ``weight``.
        recipe: How the full-precision model is trained.
        metric: The metric that scores models: a name of ``ttq_plugin.tasks.metrics.METRICS``, or a Metric.
        balanced: Whether ``loss_for`` gives every class the same weight, however rare it is.
        shape: Shape of one sample without the batch dimension, if it is known without loading data; a tuple of shapes
            for a model of several positional arguments.
        classes: Names of the classes (or labels) by index; if left empty, their numbers.

    Raises:
        InputError: If there is no such metric, load, model or loss is not a function, or another attribute is not what
            is described above.

    Examples:
        >>> import torch
        >>> from ttq_plugin.tasks.task import Data, Recipe, Split, Task
        >>> def load(source, seed):
        ...     x = torch.randn(300, 8, generator=torch.Generator().manual_seed(seed))
        ...     return Data(*(Split(part, (part[:, 0] > 0).long()) for part in x.split(100)))
        >>> task = Task("sign", "the sign of a number", load, lambda: torch.nn.Linear(8, 2),
        ...             torch.nn.functional.cross_entropy, Recipe(epochs=5, lr=0.1), metric="accuracy")
        >>> task.score.label
        'accuracy'
    """

    name: str
    description: str
    load: Callable[[Path | None, int], Data]
    model: Callable[[], nn.Module]
    loss: Callable[..., Tensor]
    recipe: Recipe
    _: KW_ONLY
    metric: str | Metric = "mcc"
    balanced: bool = False
    shape: tuple[int, ...] | tuple[tuple[int, ...], ...] = ()
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name("the name of a task", self.name)
        get_metric(self.metric)
        if isinstance(self.model, nn.Module):
            raise InputError(
                f"model of a task must be a function that makes the untrained model, got a {type(self.model).__name__}"
                " itself; give its class, or a function without arguments that returns a new one."
            )
        if isinstance(self.loss, type) and issubclass(self.loss, nn.Module):
            raise InputError(
                f"loss of a task must be a function (outputs, targets) -> scalar, got the class {self.loss.__name__}; "
                "give an instance of it."
            )
        for name in ("load", "model", "loss"):
            if not callable(value := getattr(self, name)):
                raise InputError(f"{name} of a task must be a function, got {type(value).__name__}.")
        for name, kind, words in (
            ("description", str, "a string"), ("recipe", Recipe, "a Recipe"), ("balanced", bool, "True or False")
        ):  # fmt: skip
            if not isinstance(value := getattr(self, name), kind):
                raise InputError(f"{name} of a task must be {words}, got {shown(value)}.")
        object.__setattr__(self, "shape", shape_of(self.shape))
        object.__setattr__(self, "classes", classes_of(self.classes))

    @property
    def score(self) -> Metric:
        """The metric itself, whether the task names it or brings it."""
        return get_metric(self.metric)

    def noise(self, batch: int) -> Any:
        """Random inputs of the task's shape.

        Args:
            batch: Number of samples.

        Returns:
            Standard normal numbers, always the same: a tensor, or a tuple of them if the model takes several.
        """
        generator = torch.Generator().manual_seed(0)
        sizes = [size for size in self.shape if isinstance(size, int)]
        if len(sizes) == len(self.shape):
            return torch.randn(batch, *sizes, generator=generator)
        parts = [part for part in self.shape if isinstance(part, tuple)]
        return tuple(torch.randn(batch, *part, generator=generator) for part in parts)

    def loss_for(self, train: Samples) -> Loss:
        """The loss to train with.

        Args:
            train: The training split, on the device of the training.

        Returns:
            ``loss``; if balanced, with the weight n / (classes n_c) for a class that n_c of the n samples have.
        """
        weights = self.class_weights(train)
        return self.loss if weights is None else partial(self.loss, weight=weights)

    def class_weights(self, train: Samples) -> Tensor | None:
        """Samples / (classes n_c) for a class that n_c samples have, shape (classes,); None if not balanced."""
        if not self.balanced:
            return None
        targets = train.targets()
        parts = [part.reshape(-1) for part in (targets if isinstance(targets, list) else [targets]) if _whole(part)]
        if not parts or isinstance(targets, list) and len(parts) < len(targets):
            raise InputError(
                f"A balanced loss needs targets that are class indices (int64), got {inputs.kind(targets)}; leave "
                "balanced out and weigh the classes in your own loss."
            )
        known = torch.cat([part[part != IGNORED] for part in parts])
        if len(known) and int(known.min()) < 0:
            raise InputError(
                f"Labels must be class indices from 0 on, got {int(known.min())}; map them to 0, 1 and so on."
            )
        counts = known.bincount()
        return len(known) / (len(counts) * counts.float())


def _whole(targets: Any) -> bool:
    return isinstance(targets, Tensor) and not targets.is_floating_point() and not targets.is_complex()
