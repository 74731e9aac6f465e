"""Scores a model on a split: the task's metric and its parts, class by class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.support import inputs
from ttq_plugin.support.frames import explain, of_the_user
from ttq_plugin.support.seeds import seeded
from ttq_plugin.tasks.metrics import Metric, get_metric
from ttq_plugin.tasks.samples import Samples
from ttq_plugin.tasks.scoring import formulas
from ttq_plugin.tasks.scoring.branches import attention_of, by_class
from ttq_plugin.tasks.scoring.parts import NATURAL, is_lost, part_label
from ttq_plugin.tasks.scoring.readings import MULTILABEL, main_output, read_classes, read_values

REGRESSION = NATURAL
ROUNDING = 1e-6
"""Relative tolerance of a metric's bounds, because float32 sums may exceed them."""
OVERLAP = frozenset({"dice", "iou"})


@dataclass(frozen=True)
class Score:
    """A model's score on a split.

    Attributes:
        value: The value of the task's metric.
        parts: Its parts, such as ``balanced_accuracy`` and ``recall_0`` for class 0.
    """

    value: float
    parts: dict[str, float] = field(default_factory=dict)


def outputs_of(
    model: nn.Module, samples: Samples, read: Callable[[Any], Any] = lambda outputs: outputs
) -> tuple[Any, Any]:
    """A model's outputs on a split, and the targets, both on the CPU.

    Args:
        model: Put into evaluation mode; its mode comes back.
        samples: The samples, on the model's device; augmentations at random are the same each time.
        read: Takes what is needed of the outputs of a batch.

    Returns:
        Outputs and targets, the batches joined.

    Raises:
        InputError: If the batches' outputs cannot be joined, or the user's code fails.
    """
    training = model.training
    model.eval()
    outputs, targets = [], []
    try:
        with torch.no_grad(), seeded(0), of_the_user("Scoring the model", always=False):
            for x, y in samples.batches(samples.scoring_batch):
                outputs.append(inputs.to_device(read(inputs.call(model, x)), "cpu"))
                targets.append(inputs.to_device(y, "cpu"))
    finally:
        model.train(training)
    return _joined(outputs, "outputs"), _joined(targets, "targets")


def _joined(parts: Sequence[Any], what: str) -> Any:
    try:
        return inputs.join(parts)
    except (InputError, RuntimeError) as error:
        raise InputError(
            f"The {what} of different batches must have one shape beyond the first dimension to be scored together, "
            f"got {inputs.kind(parts[0])} and others ({error}); let the collate function pad to one length, or "
            "the model pool over it."
        ) from None


def score(model: nn.Module, samples: Samples, metric: str | Metric = "mcc") -> Score:
    """Score a model on a split.

    Args:
        model: Any module; its mode comes back.
        samples: The samples, on the model's device.
        metric: A metric, or its name.

    Returns:
        The score with its parts; of a network with attention between branches, that by class is among them.

    Raises:
        InputError: If the metric does not apply to the model's outputs.
        Diverged: If the metric is not a finite number.
    """
    metric = get_metric(metric)
    read = main_output if metric.builtin else lambda outputs: outputs
    with attention_of(model) as seen:
        outputs, targets = outputs_of(model, samples, read)
    found = score_outputs(outputs, targets, metric)
    return replace(found, parts=found.parts | by_class(seen, targets))


def score_outputs(outputs: Any, targets: Any, metric: Metric) -> Score:
    """The same from outputs and targets; see ``score``."""
    try:
        if metric.builtin and bool(torch.isnan(main_output(outputs)).any()):
            raise Diverged("the model's outputs are NaN")
        # First of all: a user's own function may write into what it is given.
        found = {} if metric.builtin else parts(outputs, targets, metric)
        value = metric.function(outputs, targets)
        found = found or parts(outputs, targets, metric)
    except Diverged:
        raise
    except InputError as error:
        raise InputError(f"The metric {metric.name} does not fit: {error}") from None
    except Exception as error:
        if not metric.builtin:
            raise InputError(f"The metric {metric.name} failed: {explain(error)}.") from error
        if not bool(torch.isfinite(main_output(outputs)).all()):
            raise Diverged("the model's outputs are infinite") from error
        raise InputError(f"The metric {metric.name} cannot be computed: {explain(error)}.") from error
    return Score(_number(value, metric), found)


def _number(value: Any, metric: Metric) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    shape = tuple(getattr(value, "shape", ()))
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__float__") or shape:
        came = f"a {type(value).__name__} of the shape {shape}" if shape else type(value).__name__
        raise InputError(f"The metric {metric.name} must return a number, got {came}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Diverged(f"the metric {metric.name} is {number}")
    slack = ROUNDING * max(1.0, abs(number))
    if not metric.low - slack <= number <= metric.high + slack:
        raise InputError(
            f"The metric {metric.name} must lie between its low and high, {metric.low:g} and {metric.high:g}, got "
            f"{number:g}; correct the function or the bounds."
        )
    return number


def parts(outputs: Any, targets: Any, metric: Metric) -> dict[str, float]:
    """What a score is made of.

    Args:
        outputs: The outputs of the whole split.
        targets: Its targets.
        metric: A regression's, an overlap's, or one of classes.

    Returns:
        For classes ``balanced_accuracy`` and ``recall_<class>``; for overlaps ``dice_<class>`` or ``iou_<class>``;
        for a regression ``rmse``, ``mae`` and ``r2``, and of several outputs ``<metric>_<output>`` too. Nothing where
        outputs and targets cannot be read so, as may be under a metric of the user's own.
    """
    try:
        if metric.name in REGRESSION:
            return _regression(outputs, targets, metric)
        reading = read_classes(outputs, targets)
    except InputError:
        return {}
    if metric.name in OVERLAP:
        return {f"{metric.name}_{k}": v for k, v in formulas.overlaps(metric.name, reading).items()}
    found = formulas.recalls(reading)
    names = {f"recall_{k}": v for k, v in found.items()}
    if reading.kind == MULTILABEL or not found:
        return names
    return {"balanced_accuracy": sum(found.values()) / len(found), **names}


def _regression(outputs: Any, targets: Any, metric: Metric) -> dict[str, float]:
    predicted, truth = read_values(outputs, targets)
    if not bool(torch.isfinite(predicted).all()):
        return {}
    whole = {name: float(getattr(formulas, name)(predicted, truth)) for name in sorted(REGRESSION)}
    if predicted.shape[1] == 1 or predicted.shape[1] > 64:
        return whole
    of_one = getattr(formulas, metric.name)
    columns = {f"{metric.name}_{k}": of_one(predicted[:, [k]], truth[:, [k]]) for k in range(predicted.shape[1])}
    return {**whole, **columns}


def lost_classes(before: Mapping[str, float], after: Mapping[str, float], names: Sequence[str] = ()) -> list[str]:
    """Classes that the full-precision model finds and a compressed one does not.

    Args:
        before: Parts of the full-precision model's score.
        after: Parts of the compressed model's, on the same split.
        names: The names of the classes, by index.

    Returns:
        A sentence for each class whose recall (or overlap) fell below a tenth of its former value.
    """
    found = []
    for key, value in before.items():
        if is_lost(key, value, now := after.get(key, 0.0)):
            what, _, name = part_label(key, names).partition(" of ")
            found.append(
                f"class {name} is lost: its {what} fell from {100 * value:.1f} % in full precision to {100 * now:.1f} %"
            )
    return found
