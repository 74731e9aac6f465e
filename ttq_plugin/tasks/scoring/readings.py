"""Interprets outputs and targets: which kind of problem it is, and what the model predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ttq_plugin.errors import InputError

BINARY, MULTICLASS, MULTILABEL = "binary", "multi-class", "multi-label"

IGNORED = -100
"""The class index that torch's cross-entropy leaves out; metrics leave it out too."""


@dataclass(frozen=True)
class Reading:
    """Classes, as read from outputs and targets; each position of a picture or a sequence counts as a sample.

    Attributes:
        kind: ``binary`` (one logit), ``multi-class`` (a logit a class) or ``multi-label`` (a logit a label).
        scores: Logits, float64: (samples,), (samples, classes) or (samples, labels).
        predicted: Class indices (samples,), or for ``multi-label`` zeros and ones (samples, labels).
        truth: The truth of the same shape.
        classes: How many classes or labels there are; 2 for ``binary``.
        rows: Which row of the outputs each of these samples is a position of; those left out belong to none.
    """

    kind: str
    scores: Tensor
    predicted: Tensor
    truth: Tensor
    classes: int
    rows: Tensor


def main_output(outputs: Any) -> Tensor:
    """The one tensor that a built-in metric reads.

    Args:
        outputs: A tensor; a mapping or an object with ``logits`` (as Hugging Face's); or a nest with one tensor.

    Returns:
        That tensor.

    Raises:
        InputError: If there are several and none is called ``logits``.
    """
    from ttq_plugin.support.inputs import tensors

    if isinstance(outputs, Tensor):
        return outputs
    named = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if isinstance(named, Tensor):
        return named
    found = tensors(outputs)
    if len(found) != 1:
        raise InputError(
            f"A built-in metric reads one output tensor, or the one called logits, but the model returns {len(found)}; "
            "give the task a Metric whose function takes the outputs as they are."
        )
    return found[0]


def _shapes(outputs: Tensor, targets: Tensor) -> str:
    return (
        f"outputs of the shape {tuple(outputs.shape)} and {str(targets.dtype).removeprefix('torch.')} targets of the "
        f"shape {tuple(targets.shape)}"
    )


def read_classes(outputs: Any, targets: Any) -> Reading:
    """Read outputs and targets as classes.

    One logit a sample, (n,) or (n, 1), is binary; (n, classes, ...) with whole-number targets (n, ...) is multi-class,
    also with the classes last as in token classification (where both would do, the classes are the second dimension, as
    torch's losses have it); equal shapes (n, labels) are multi-label, unless every row of the targets sums to one: then
    they are probabilities of classes. More dimensions are positions.

    Args:
        outputs: The model's outputs.
        targets: Zeros and ones, class indices, or probabilities.

    Returns:
        The reading.

    Raises:
        InputError: If they do not match; the message says what was given.
    """
    logits, truth = main_output(outputs).detach().cpu(), targets
    if not isinstance(truth, Tensor):
        raise InputError(f"A built-in metric needs targets that are one tensor, got {type(truth).__name__}.")
    truth = truth.detach().cpu()
    if logits.is_complex() or truth.is_complex():
        raise InputError(
            f"Outputs and targets must be real numbers, got {_shapes(logits, truth)}; give the task a "
            "Metric of your own."
        )
    logits = logits.double() if logits.is_floating_point() else logits
    if logits.dim() == 0 or truth.dim() == 0 or len(logits) != len(truth):
        raise InputError(f"Outputs and targets must have one row per sample, got {_shapes(logits, truth)}.")
    if logits.dim() == truth.dim() + 1 and logits.shape[1] == 1 and logits.shape[2:] == truth.shape[1:]:
        return _binary(logits.squeeze(1), truth)
    if logits.dim() == truth.dim() + 1 and logits.shape[-1] == 1 and logits.shape[:-1] == truth.shape:
        return _binary(logits.squeeze(-1), truth)
    if logits.shape == truth.shape and (logits.dim() == 1 or logits.shape[1] == 1):
        return _binary(logits, truth)
    if logits.shape == truth.shape and logits.dim() == 3 and not _are_shares(truth.movedim(1, -1).flatten(0, -2)):
        raise InputError(
            f"Outputs and targets of three dimensions may be masks or labels at positions, got {_shapes(logits, truth)}"
            "; give masks a channel, (n, 1, height, width), and sequences too, (n, 1, positions), or give "
            "the task a Metric of your own."
        )
    if logits.shape == truth.shape and logits.dim() >= 2:
        return _several(logits.movedim(1, -1), truth.movedim(1, -1))
    if logits.dim() == truth.dim() + 1 and logits.shape[2:] == truth.shape[1:]:
        return _multiclass(logits.movedim(1, -1), truth)
    if logits.dim() == truth.dim() + 1 and logits.shape[:-1] == truth.shape:
        return _multiclass(logits, truth)
    raise InputError(
        f"This metric needs class outputs (n, classes) with targets (n,), one logit (n,) or (n, 1) with zeros and "
        f"ones, or (n, labels) for both, got {_shapes(logits, truth)}; regression is scored by rmse, mae or r2."
    )


def _binary(logits: Tensor, truth: Tensor) -> Reading:
    scores, rows, truth = logits.reshape(-1), _rows(truth), truth.reshape(-1)
    _check_binary(truth)
    return Reading(BINARY, scores, (scores > 0).long(), truth.long(), 2, rows)


def _several(logits: Tensor, truth: Tensor) -> Reading:
    """Equal shapes (..., k): labels that go together, or probabilities of classes."""
    scores, rows, truth = logits.flatten(0, -2), _rows(truth[..., 0]), truth.flatten(0, -2)
    if _are_shares(truth):
        return Reading(MULTICLASS, scores, scores.argmax(1), truth.argmax(1), scores.shape[1], rows)
    _check_binary(truth)
    return Reading(MULTILABEL, scores, (scores > 0).long(), truth.long(), scores.shape[1], rows)


def _rows(truth: Tensor) -> Tensor:
    """The row of each position, (rows, ...) -> (positions,)."""
    return torch.arange(len(truth)).repeat_interleave(truth[:1].numel())


def _are_shares(truth: Tensor) -> bool:
    """Whether each row, (..., classes), adds up to one."""
    return bool(((truth.double().sum(1) - 1).abs() < 1e-4).all())


def _multiclass(logits: Tensor, truth: Tensor) -> Reading:
    if truth.is_floating_point():
        raise InputError(
            f"Class targets must be whole numbers (int64), got {_shapes(logits, truth)}; convert them with .long()."
        )
    scores, rows, truth = logits.flatten(0, -2), _rows(truth), truth.reshape(-1).long()
    kept = truth != IGNORED
    scores, rows, truth = scores[kept], rows[kept], truth[kept]
    check_indices(truth, scores.shape[1])
    return Reading(MULTICLASS, scores, scores.argmax(1), truth, scores.shape[1], rows)


def check_indices(truth: Tensor, classes: int) -> None:
    """Check class indices.

    Args:
        truth: int64, any shape, at least one.
        classes: How many outputs the model has.

    Raises:
        InputError: If one lies outside 0 to classes - 1.
    """
    if truth.numel() == 0:
        return
    low, high = int(truth.min()), int(truth.max())
    if low >= 0 and high < classes:
        return
    if low == 1 and high == classes:
        advice = "subtract 1 from them"
    elif low < 0:
        advice = "map them to 0, 1 and so on"
    else:
        advice = f"give the model {high + 1} outputs"
    raise InputError(f"Labels must be class indices from 0 to {classes - 1}, got {low} to {high}; {advice}.")


def _check_binary(truth: Tensor) -> None:
    values = truth.unique()
    if not bool(((values == 0) | (values == 1)).all()):
        shown = ", ".join(f"{float(value):g}" for value in values[:5])
        advice = "map -1 to 0" if float(values.min()) == -1 else "map them so, or score a regression by rmse, mae or r2"
        raise InputError(f"With one logit per label, targets must be 0 and 1, got {shown}; {advice}.")


def read_values(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Outputs and targets of a regression, float64, both (samples, values).

    Args:
        outputs: The model's outputs.
        targets: The targets of the same shape, or without the outputs' single last dimension.

    Returns:
        Predicted and true values.

    Raises:
        InputError: If the shapes do not fit.
    """
    predicted = main_output(outputs).detach().cpu().double()
    if not isinstance(targets, Tensor):
        raise InputError(f"A built-in metric needs targets that are one tensor, got {type(targets).__name__}.")
    truth = targets.detach().cpu().double()
    if predicted.numel() != truth.numel() or len(predicted) != len(truth):
        raise InputError(f"A regression needs a target for each output, got {_shapes(predicted, targets)}.")
    if predicted.dim() > 2 or predicted.shape != truth.shape:
        squeezed = [tuple(d for d in t.shape[1:] if d != 1) for t in (predicted, truth)]
        if squeezed[0] != squeezed[1]:
            raise InputError(f"A regression needs a target for each output, got {_shapes(predicted, targets)}.")
    return predicted.reshape(len(predicted), -1), truth.reshape(len(truth), -1)


def probabilities(reading: Reading) -> Tensor:
    """Softmax of multi-class scores; other kinds' scores are ranked as they are."""
    return torch.softmax(reading.scores, 1) if reading.kind == MULTICLASS else reading.scores
