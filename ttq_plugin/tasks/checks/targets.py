"""Checks that targets match the model's outputs and the built-in metric, and which classes each split has."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.support import inputs
from ttq_plugin.tasks.samples import Samples
from ttq_plugin.tasks.scoring.readings import (
    BINARY,
    MULTICLASS,
    MULTILABEL,
    Reading,
    main_output,
    read_classes,
    read_values,
)
from ttq_plugin.tasks.scoring.scores import REGRESSION, score_outputs
from ttq_plugin.tasks.task import Task

TRIED = 64
"""Samples that the untrained model is tried on."""

MOST_VALUES = 1 << 22
"""The most outputs that a metric is tried on before training."""


class TaskWarning(UserWarning):
    """A warning about a task's data that matters for reading its results."""


def check_targets(task: Task, splits: Mapping[str, Samples], outputs: Any) -> None:
    """Check all targets under a built-in metric.

    Args:
        task: Its metric is a built-in one.
        splits: The splits, by name; the first is the training split.
        outputs: The untrained model's for the first training samples, at most ``TRIED`` of them.

    Raises:
        InputError: For the first mistake found.
    """
    logits = main_output(outputs)
    tried = min(TRIED, len(splits["train"]))
    if logits.dim() == 0 or len(logits) != tried:
        raise InputError(
            f"The model must return one row per sample, got outputs {inputs.kind(logits)} for {tried} samples; "
            "keep the batch as the first dimension."
        )
    targets = {name: _checked(name, samples.targets()) for name, samples in splits.items()}
    if task.score.name in REGRESSION:
        for name, values in targets.items():
            with _in_split(name):
                read_values(logits[: len(values)], values[: len(logits)])
    else:
        readings = {name: _read(name, logits, values) for name, values in targets.items()}
        _check_classes(task, {name: seen for name, (seen, _) in readings.items()}, readings["train"][1])
    for name in list(targets)[1:]:
        _try_metric(task, name, logits, targets[name])


def _checked(name: str, targets: Any) -> Tensor:
    if not isinstance(targets, Tensor):
        raise InputError(
            f"A built-in metric needs y to be one tensor, got {inputs.kind(targets)} in the {name} split; give the "
            "task a Metric of your own."
        )
    if targets.is_floating_point() and not bool(torch.isfinite(targets).all()):
        rows = (~torch.isfinite(targets)).reshape(len(targets), -1).any(1).nonzero().flatten()
        raise InputError(
            f"The targets of the {name} split must be finite, got NaN or infinity in {len(rows)} of {len(targets)} "
            f"samples (first: row {int(rows[0])}); leave those samples out."
        )
    return targets


@contextmanager
def _in_split(name: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"The {name} split: {error}") from None


def _read(name: str, logits: Tensor, targets: Tensor) -> tuple[set[int], Reading]:
    """The classes that are there, and how targets are read with outputs; some at a time, since pictures are large."""
    small = not targets.is_floating_point() and not targets.is_complex() and targets.dtype != torch.int64
    if small and logits.dim() == targets.dim() + 1 and logits.shape[1] > 1:
        dtype = str(targets.dtype).removeprefix("torch.")
        raise InputError(f"Class labels must be int64, got {dtype} in the {name} split; convert them by y.long().")
    seen: set[int] = set()
    kinds: dict[str, Reading] = {}
    for part in targets.split(len(logits)):
        with _in_split(name):
            reading = read_classes(logits[: len(part)], part)
        kinds[reading.kind] = reading
        seen |= _present(reading)
    return seen, kinds.get(MULTILABEL, reading)  # a few rows with one label each look like classes


def _try_metric(task: Task, name: str, logits: Tensor, targets: Tensor) -> None:
    """The metric with all targets and outputs of their number, the first ones over and over: a curve needs classes."""
    values = logits[0].numel() * len(targets)
    if values > MOST_VALUES or not bool(torch.isfinite(logits).all()):
        return  # an untrained model may overflow
    try:
        with _in_split(name):
            score_outputs(logits[torch.arange(len(targets)) % len(logits)], targets, task.score)
    except Diverged as error:
        raise InputError(
            f"The {name} split: the metric must be a finite number, but {error}; give it more or other samples."
        ) from None


def _present(reading: Reading) -> set[int]:
    if reading.kind in (BINARY, MULTICLASS):
        return set(reading.truth.unique().tolist())
    return {k for k in range(reading.classes) if bool(reading.truth[:, k].any())}


def _check_classes(task: Task, seen: dict[str, set[int]], reading: Reading) -> None:
    def named(k: int) -> str:
        return task.classes[k] if k < len(task.classes) else str(k)

    train = seen["train"]
    if task.classes and len(task.classes) != reading.classes:
        raise InputError(
            f"classes of a task must name every class, got {len(task.classes)} names for {reading.classes} classes."
        )
    if task.balanced and (missing := sorted(set(range(reading.classes)) - train)):
        raise InputError(
            f"A balanced loss needs every class in the training split, got none of class {named(missing[0])} of "
            f"{reading.classes}; give the model fewer outputs, or leave balanced out."
        )
    for name in list(seen)[1:]:
        if strange := sorted(seen[name] - train):
            raise InputError(
                f"Every class must be in the training split, got class {named(strange[0])} in the {name} split alone; "
                "split the data by class too, as ttq_plugin.tasks.splits.stratified does."
            )
        if reading.kind in (BINARY, MULTICLASS) and len(seen[name]) < 2:
            raise InputError(
                f"The {name} split must have at least two classes, got class "
                f"{', '.join(map(named, sorted(seen[name])))} alone; split the data by class too."
            )
        if missing := sorted(train - seen[name]):
            warnings.warn(
                f"The {name} split has no sample of class {', '.join(map(named, missing))}: nothing is known about it.",
                TaskWarning,
                stacklevel=2,
            )
