"""Compares forms of a model with the model: outputs on the same samples, differences, and scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch

from ttq_plugin.errors import InputError
from ttq_plugin.support.inputs import join, kind, map_tensors, tensors, to_device
from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.tasks.samples import Samples
from ttq_plugin.tasks.scoring.scores import score_outputs

Call = Callable[[Any], Any]
"""A form of a model, which takes its inputs as one object."""


def in_form(outputs: Any, form: Any) -> Any:
    """Give outputs the nesting of the model's outputs.

    Args:
        outputs: The outputs of another form of the model, in any nesting.
        form: The model's own, of any samples; whatever is not a tensor is taken from here.

    Returns:
        The tensors of ``outputs`` in the places of those of ``form``.

    Raises:
        InputError: If there are not equally many.
    """
    found, wanted = tensors(outputs), tensors(form)
    if len(found) != len(wanted):
        raise InputError(f"the exported model must return {kind(form)}, got {kind(outputs)}.")
    places = itertools.count()
    return map_tensors(lambda _: found[next(places)], form)


def largest_difference(ours: Any, theirs: Any, *, relative: bool = False) -> float:
    """Compare the tensors of two outputs.

    Args:
        ours: Outputs in any nesting.
        theirs: The outputs of the model.
        relative: Whether to divide by the largest of the model's numbers, tensor by tensor.

    Returns:
        The largest absolute difference of two numbers; 0 if there are none.
    """
    found = [0.0]
    for one, other in zip(tensors(ours), tensors(theirs), strict=True):
        if other.numel():
            scale = float(other.double().abs().max()) if relative else 1.0
            error = float((one.double() - other.double()).abs().max())
            found.append(error / scale if scale else error)
    return max(found)


def outputs_by(call: Call, samples: Samples, batch: int) -> tuple[Any, Any]:
    """Run a form of a model on a split.

    Args:
        call: The form.
        samples: The samples, on the CPU.
        batch: Samples per call.

    Returns:
        Outputs and targets, the batches joined.

    Raises:
        InputError: If the batches' outputs cannot be joined.
    """
    outputs, targets = [], []
    with torch.inference_mode():
        for x, y in samples.batches(batch):
            outputs.append(to_device(call(x), "cpu"))
            targets.append(y)
    try:
        return join(outputs), join(targets)
    except (InputError, RuntimeError) as error:
        raise InputError(
            f"outputs of different batches must have one shape beyond the first dimension to be compared, got "
            f"{kind(outputs[0])} and others ({error}); let the collate function pad to one length."
        ) from None


def score_by(call: Call, samples: Samples, metric: Metric, batch: int) -> float:
    """Score a form of a model whose outputs have the model's nesting.

    Args:
        call: The form.
        samples: The samples, on the CPU.
        metric: The metric of the task.
        batch: Samples per call.

    Returns:
        The metric's value.
    """
    outputs, targets = outputs_by(call, samples, batch)
    return score_outputs(outputs, targets, metric).value
