"""Optimisers and learning-rate schedules by name, as recipes choose them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from ttq_plugin.errors import InputError

Trace = Callable[[Any], Any]
"""What a class is wrapped by before it is called: ``nni.trace``, if NNI has to rebuild the object."""


@dataclass(frozen=True)
class Algorithm:
    """An optimiser.

    Attributes:
        kind: torch's class.
        options: Its arguments besides learning rate and weight decay.
    """

    kind: type[Optimizer]
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(
        self, parameters: Iterable[Parameter], *, lr: float, weight_decay: float = 0.0, trace: Trace | None = None
    ) -> Optimizer:
        """The optimiser of these parameters."""
        kind: Any = trace(self.kind) if trace else self.kind
        optimizer: Optimizer = kind(parameters, lr=lr, weight_decay=weight_decay, **self.options)
        return optimizer


OPTIMIZERS: dict[str, Algorithm] = {
    "adamax": Algorithm(torch.optim.Adamax),
    "adamw": Algorithm(torch.optim.AdamW),
    "adam-no-momentum": Algorithm(torch.optim.Adam, {"betas": (0.0, 0.999)}),
}
"""The papers train CNNs with Adamax, and transformers with Adam without momentum under Noam's schedule."""


@dataclass(frozen=True)
class Course:
    """What a schedule is fitted to.

    Attributes:
        lr: Learning rate of the optimiser.
        epochs: Passes over the training split.
        batches: Steps an epoch.
        width: Width of the model's tokens (d_model), 0 if it has none; only ``noam`` asks.
        warmup: Steps in which ``noam`` rises.
    """

    lr: float
    epochs: int
    batches: int
    width: int = 0
    warmup: int = 4000


@dataclass(frozen=True)
class Noam:
    """The factor d^-0.5 min(s^-0.5, s w^-1.5) at step s = 1, 2, ... (Vaswani et al. 2017, equation 3).

    It multiplies each group's learning rate, which so is the papers' dimensionless factor: its peak, at step w, is
    lr / sqrt(d w).

    Attributes:
        width: d, the model's width.
        warmup: w, in steps.

    Raises:
        InputError: For a width or warm-up below 1.
    """

    width: int
    warmup: int = 4000

    def __post_init__(self) -> None:
        for name, value in (("width", self.width), ("warmup", self.warmup)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a positive integer for the schedule noam, got {value!r}.")

    def __call__(self, done: int) -> float:
        """The factor after ``done`` steps."""
        step = done + 1
        return float(self.width**-0.5 * min(step**-0.5, step * self.warmup**-1.5))


@dataclass(frozen=True)
class Schedule:
    """A schedule of learning rates.

    Attributes:
        kind: torch's class.
        arguments: What it gets, from the course.
        every_batch: Whether it steps after each batch, instead of each epoch.
        needs_metric: Whether a step takes what is to fall, such as the epoch's mean loss.
    """

    kind: type[LRScheduler]
    arguments: Callable[[Course], dict[str, Any]]
    every_batch: bool = False
    needs_metric: bool = False

    def make(self, optimizer: Optimizer, course: Course, *, trace: Trace | None = None) -> LRScheduler:
        """The scheduler of this optimiser."""
        kind = trace(self.kind) if trace else self.kind
        scheduler: LRScheduler = kind(optimizer, **self.arguments(course))
        return scheduler


SCHEDULES: dict[str, Schedule] = {
    "cosine": Schedule(CosineAnnealingLR, lambda c: {"T_max": c.epochs}),
    "cosine-10": Schedule(CosineAnnealingLR, lambda _: {"T_max": 10}),
    "one-cycle": Schedule(
        OneCycleLR, lambda c: {"max_lr": c.lr, "total_steps": c.epochs * c.batches}, every_batch=True
    ),
    "noam": Schedule(LambdaLR, lambda c: {"lr_lambda": Noam(c.width, c.warmup)}, every_batch=True),
    "plateau": Schedule(ReduceLROnPlateau, lambda _: {"factor": 0.1, "patience": 5}, needs_metric=True),
}
"""``noam``, ``plateau`` and ``cosine-10`` are the papers'; after ten epochs the last one rises again, as torch's do."""
