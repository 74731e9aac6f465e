"""Checks a task before anything is trained; each error says in one sentence what was given and what to change."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.support import inputs
from ttq_plugin.support.frames import of_the_user
from ttq_plugin.support.names import check_module_names
from ttq_plugin.support.seeds import seeded
from ttq_plugin.tasks.checks.loss import check_loss
from ttq_plugin.tasks.checks.overlap import check_groups, check_overlap
from ttq_plugin.tasks.checks.targets import TRIED, TaskWarning, check_targets
from ttq_plugin.tasks.samples import Samples, Split, Stream, check_lengths
from ttq_plugin.tasks.scoring.scores import score_outputs
from ttq_plugin.tasks.task import SPLITS, Data, Task

GLIMPSE = 2
"""Samples of the other splits that the untrained model is tried on."""

__all__ = ["TaskWarning", "check_task", "load_data", "make_model"]


_MADE: WeakSet[nn.Module] = WeakSet()
"""Every module that a task made and that is still there."""


def load_data(task: Task, source: Any, seed: int) -> Data:
    """The task's data.

    Args:
        task: The task whose ``load`` is called.
        source: The user's file or folder, or None.
        seed: Random seed of the splits.

    Returns:
        The data.

    Raises:
        InputError: If ``load`` fails or gives something else.
    """
    with of_the_user(f"load of {task.name}"):
        data = task.load(source, seed)
    if not isinstance(data, Data):
        raise InputError(
            f"load of {task.name} must return ttq_plugin.tasks.task.Data(train, validation, test), got "
            f"{type(data).__name__}."
        )
    return data


def make_model(task: Task) -> nn.Module:
    """The task's untrained model, on the CPU.

    Args:
        task: The task whose ``model`` is called.

    Returns:
        The module.

    Raises:
        InputError: If ``model`` fails or gives something else, or a module with names that files cannot keep.
    """
    with of_the_user(f"model of {task.name}"):
        model = task.model()
    if not isinstance(model, nn.Module):
        raise InputError(f"model of {task.name} must return a torch.nn.Module, got {type(model).__name__}.")
    if model in _MADE:
        raise InputError(
            f"model of {task.name} must return a new module at each call, got the same one again, which a training "
            f"would already have changed; create it inside the function."
        )
    _MADE.add(model)
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise InputError(
            f"model of {task.name} must return a module whose weights all have their shapes, got one with lazy layers; "
            "call it once on an example before it is returned."
        )
    check_module_names(model)
    return model


def check_task(task: Task, data: Data, model: nn.Module, *, test: bool = True) -> None:
    """Check everything that can be checked before training.

    Args:
        task: The task, whose loss and metric are tried.
        data: The data, whose splits are checked.
        model: The untrained model, on the CPU; it is not changed.
        test: Whether to check the test split too; it is only checked for mistakes.

    Raises:
        InputError: For the first mistake found.
    """
    splits = {name: getattr(data, name) for name in (SPLITS if test else SPLITS[:-1])}
    for name, samples in splits.items():
        _check_split(name, samples)
    if not data.overlap:
        check_overlap(splits)
    check_groups(splits)
    # The samples that are tried are the same whatever the model draws, and nobody's random numbers move.
    with seeded(0):
        outputs = _outputs(task, "train", data.train.head(TRIED), model)
        for name in list(splits)[1:]:  # of another form they would fail after the training
            _outputs(task, name, splits[name].head(GLIMPSE), model)
        if task.score.builtin:
            check_targets(task, splits, outputs)
        check_loss(task, data.train, model)
        if not task.score.builtin:
            _check_metric(task, data, model)


def _check_split(name: str, samples: Samples) -> None:
    """Something in it, and no NaN among the inputs."""
    if isinstance(samples, Stream):
        with of_the_user(f"The Dataset of the {name} split"):
            if len(samples) == 0:
                raise InputError(f"The {name} split must hold at least one sample, got an empty Dataset.")
            if broken := list(dict.fromkeys(samples.broken())):
                raise InputError(
                    f"The inputs of the {name} split must be finite, got NaN or infinity in {len(broken)} of "
                    f"{len(samples)} samples (first: sample {broken[0]}); replace or leave them out."
                )
            if samples.uneven:
                raise InputError(
                    f"The targets of the {name} split must have one shape beyond the first dimension, got batches of "
                    "different ones; let the collate function pad all of them to one length."
                )
        return
    check_lengths(name, samples)
    if len(samples) == 0:
        raise InputError(f"The {name} split must hold at least one sample, got none.")
    _check_finite(name, samples.x)


def _check_finite(name: str, tree: Any) -> None:
    for path, tensor in inputs.named_tensors(tree):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            where = f" ({'.'.join(path)})" if path else ""
            rows = (~torch.isfinite(tensor)).reshape(len(tensor), -1).any(1).nonzero().flatten()
            raise InputError(
                f"The inputs{where} of the {name} split must be finite, got NaN or infinity in {len(rows)} of "
                f"{len(tensor)} samples (first: row {int(rows[0])}); replace or leave them out."
            )


def _outputs(task: Task, name: str, few: Split, model: nn.Module) -> Any:
    """What the untrained model makes of some samples, in evaluation mode."""
    _check_form(task, name, few, model)
    training = model.training
    model.eval()
    try:
        where = "" if name == "train" else f" of the {name} split"
        with torch.no_grad(), of_the_user(f"The model of {task.name}, given inputs {inputs.kind(few.x)}{where},"):
            return inputs.call(model, few.x)
    finally:
        model.train(training)


def _check_form(task: Task, name: str, few: Split, model: nn.Module) -> None:
    """Refuse float64 inputs for float32 weights, for which torch's message is not helpful."""
    weights = {p.dtype for p in model.parameters() if p.is_floating_point()}
    given = {t.dtype for t in inputs.tensors(few.x) if t.is_floating_point()}
    where = "" if name == "train" else f" of the {name} split"
    if len(weights) == 1 and torch.float64 in given and torch.float64 not in weights:
        dtype = str(next(iter(weights))).removeprefix("torch.")
        raise InputError(
            f"The inputs{where} must have the model's dtype {dtype}, got float64; convert them, as by x.float()."
        )
    shapes = [tuple(t.shape[1:]) for t in inputs.tensors(few.x) if t.dim()]
    said = [task.shape] if all(isinstance(size, int) for size in task.shape) else list(task.shape)
    if task.shape and shapes != said:
        raise InputError(
            f"The inputs{where} must have the shape that the task tells, {task.shape}, got "
            f"{', '.join(map(str, shapes))} a sample; correct it, or leave it out."
        )


def _check_metric(task: Task, data: Data, model: nn.Module) -> None:
    """A metric of the user's own, on the untrained model's outputs for validation samples."""
    count = len(data.validation) if isinstance(data.validation, Split) else min(4 * TRIED, len(data.validation))
    few = data.validation.head(count)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), of_the_user(f"The model of {task.name}"):
            outputs = inputs.join([inputs.call(model, x) for x, _ in few.batches(few.scoring_batch)])
    finally:
        model.train(training)
    if not all(bool(torch.isfinite(t).all()) for t in inputs.tensors(outputs) if t.is_floating_point()):
        return  # an untrained model may overflow; a trained one is looked at when it is scored
    try:
        score_outputs(outputs, few.y, task.score)
    except Diverged as error:
        raise InputError(
            f"The metric must be a finite number, but for the untrained model {error}; let its function "
            "return a number such as 0 there too."
        ) from None
