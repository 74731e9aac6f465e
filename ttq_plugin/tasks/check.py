"""A task looked at before anything is trained: each mistake is one sentence that says what came and what to change."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin import inputs
from ttq_plugin.errors import InputError
from ttq_plugin.frames import explain
from ttq_plugin.tasks.overlap import check_groups, check_overlap
from ttq_plugin.tasks.readings import BINARY, MULTICLASS, Reading, main_output, read_classes
from ttq_plugin.tasks.samples import Samples, Split, Stream
from ttq_plugin.tasks.scores import REGRESSION, score_outputs
from ttq_plugin.tasks.task import SPLITS, Data, Task

TRIED = 64
"""Samples that the untrained model is tried on."""


class TaskWarning(UserWarning):
    """Something about a task's data that a reader of its results should know."""


@contextmanager
def of_the_user(what: str) -> Iterator[None]:
    """Turn an exception of the user's code into one sentence that names the user's line.

    Args:
        what: whose code it is, to begin the sentence with.

    Yields:
        Nothing.

    Raises:
        InputError: for any exception but InputError, which passes.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} failed: {explain(error)}.") from error


def load_data(task: Task, source: Any, seed: int) -> Data:
    """The task's data.

    Args:
        task: whose ``load`` is called.
        source: the user's file or folder, or None.
        seed: of the splits.

    Returns:
        The data.

    Raises:
        InputError: if ``load`` fails or gives something else.
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
        task: whose ``model`` is called.

    Returns:
        The module.

    Raises:
        InputError: if ``model`` fails or gives something else.
    """
    with of_the_user(f"model of {task.name}"):
        model = task.model()
    if not isinstance(model, nn.Module):
        raise InputError(f"model of {task.name} must return a torch.nn.Module, got {type(model).__name__}.")
    return model


def check_task(task: Task, data: Data, model: nn.Module, *, test: bool = True) -> None:
    """Look at everything that can be known before training.

    Args:
        task: its loss and its metric are tried.
        data: its splits are looked through.
        model: untrained, on the CPU; comes back as it was.
        test: whether the test split is looked through too; nothing but mistakes is looked for.

    Raises:
        InputError: for the first mistake found.
    """
    splits = {name: getattr(data, name) for name in (SPLITS if test else SPLITS[:-1])}
    for name, samples in splits.items():
        _check_split(name, samples)
    if not data.overlap:
        check_overlap(splits)
    check_groups(splits)
    # The samples that are tried are the same whatever the model draws, and nobody's random numbers move.
    with torch.random.fork_rng(devices=[]):
        _check_labels(task, splits, _outputs(task, data, model))
        _check_loss(task, data, model)
        _check_metric(task, data, model)


def _check_split(name: str, samples: Samples) -> None:
    """Something in it, one target a sample, whole numbers of samples, and no NaN among the inputs."""
    if isinstance(samples, Stream):
        with of_the_user(f"The Dataset of the {name} split"):
            if len(samples) == 0:
                raise InputError(f"The {name} split must hold at least one sample, got an empty Dataset.")
            if broken := list(dict.fromkeys(samples.broken())):
                raise InputError(
                    f"The inputs of the {name} split must be finite, got NaN or infinity in {len(broken)} of "
                    f"{len(samples)} samples (first: sample {broken[0]}); replace or leave them out."
                )
        return
    for what, tree in (("x", samples.x), ("y", samples.y)):
        if not [tensor for tensor in inputs.tensors(tree) if tensor.dim()]:
            raise InputError(
                f"{what} of the {name} split must be a tensor (samples, ...) or a nest of such, "
                f"got {inputs.kind(tree)}."
            )
        try:
            inputs.length(tree)
        except InputError as error:
            raise InputError(f"{what} of the {name} split: {error}") from None
    if (rows := inputs.length(samples.x)) != len(samples):
        raise InputError(f"x and y of the {name} split must have equally many samples, got {rows} and {len(samples)}.")
    if len(samples) == 0:
        raise InputError(f"The {name} split must hold at least one sample, got none.")
    groups = samples.group_ids
    if groups is not None and len(groups) != len(samples):
        raise InputError(
            f"groups of the {name} split must name one group a sample, got {len(groups)} for {len(samples)}."
        )
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


def _outputs(task: Task, data: Data, model: nn.Module) -> Any:
    """What the untrained model makes of some training samples, in evaluation mode."""
    few = data.train.head(min(TRIED, len(data.train)))
    _check_dtypes(few, model)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), of_the_user(f"The model of {task.name}, given inputs {inputs.kind(few.x)},"):
            return inputs.call(model, few.x)
    finally:
        model.train(training)


def _check_dtypes(few: Split, model: nn.Module) -> None:
    """A float64 input beside float32 weights is torch's least helpful message."""
    weights = {p.dtype for p in model.parameters() if p.is_floating_point()}
    given = {t.dtype for t in inputs.tensors(few.x) if t.is_floating_point()}
    if len(weights) == 1 and torch.float64 in given and torch.float64 not in weights:
        dtype = str(next(iter(weights))).removeprefix("torch.")
        raise InputError(f"The inputs must have the model's dtype {dtype}, got float64; convert them, as by x.float().")


def _check_labels(task: Task, splits: Mapping[str, Samples], outputs: Any) -> None:
    """Whether all targets fit the outputs' shape, and which classes are where."""
    if task.score.name in REGRESSION or not task.score.builtin:
        return
    train = splits["train"]
    few = train.head(min(TRIED, len(train)))
    logits = main_output(outputs)
    if logits.dim() == 0 or len(logits) != len(few):
        raise InputError(
            f"The model must return one row a sample, got outputs {inputs.kind(logits)} for {len(few)} samples; "
            "keep the batch as the first dimension."
        )
    seen: dict[str, set[int]] = {}
    for name, samples in splits.items():
        for targets in _target_parts(samples):
            reading = _read(name, logits, targets)
            seen.setdefault(name, set()).update(_present(reading))
    _check_classes(task, seen, reading)


def _target_parts(samples: Samples) -> list[Any]:
    targets = samples.targets()
    return targets if isinstance(targets, list) else [targets]


def _read(name: str, logits: Tensor, targets: Any) -> Reading:
    """All targets of a split, read with outputs of their number: the first ones, over and over."""
    if not isinstance(targets, Tensor):
        raise InputError(
            f"A built-in metric needs y to be one tensor, got {inputs.kind(targets)} in the {name} split; give the "
            "task a Metric of your own."
        )
    if targets.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32) and logits.dim() == targets.dim() + 1:
        dtype = str(targets.dtype).removeprefix("torch.")
        raise InputError(f"Class labels must be int64, got {dtype} in the {name} split; convert them by y.long().")
    try:
        return read_classes(logits[torch.arange(len(targets)) % len(logits)], targets)
    except InputError as error:
        raise InputError(f"The {name} split: {error}") from None


def _present(reading: Reading) -> set[int]:
    if reading.kind in (BINARY, MULTICLASS):
        return set(reading.truth.unique().tolist())
    return {k for k in range(reading.classes) if bool(reading.truth[:, k].any())}


def _check_classes(task: Task, seen: dict[str, set[int]], reading: Reading) -> None:
    named = lambda k: task.classes[k] if k < len(task.classes) else str(k)  # noqa: E731
    train = seen["train"]
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


def _check_loss(task: Task, data: Data, model: nn.Module) -> None:
    """The loss of a batch in training mode: a finite scalar with a gradient."""
    few = data.train.head(min(max(2, task.recipe.batch_size if task.recipe else TRIED), TRIED, len(data.train)))
    with of_the_user(f"The class weights of {task.name}"):
        loss_function = task.loss_for(data.train)
    state = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    training = model.training
    model.train(len(few) > 1)  # BatchNorm learns from at least two samples
    try:
        with torch.enable_grad():
            with of_the_user(f"The model of {task.name}"):
                outputs = inputs.call(model, few.x)
            with of_the_user(f"The loss of {task.name}, given outputs {inputs.kind(outputs)} and targets "
                             f"{inputs.kind(few.y)},"):  # fmt: skip
                loss = loss_function(outputs, few.y)
    finally:
        model.train(training)
        model.load_state_dict(state, strict=False)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(f"The loss must be one number, got {came}; average it over the batch, as by .mean().")
    if not bool(torch.isfinite(loss)):
        raise InputError(
            f"The loss of the untrained model must be finite, got {loss.item()}; check the loss and the data."
        )
    if not loss.requires_grad:
        raise InputError(
            "The loss must depend on the model's weights, got one without a gradient; avoid detach() and .item()."
        )


def _check_metric(task: Task, data: Data, model: nn.Module) -> None:
    """The metric of the untrained model on validation samples; on all that are in memory: a curve needs every class."""
    metric = task.score
    count = len(data.validation) if isinstance(data.validation, Split) else min(4 * TRIED, len(data.validation))
    few = data.validation.head(count)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), of_the_user(f"The model of {task.name}"):
            parts = [inputs.call(model, x) for x, _ in few.batches(few.scoring_batch)]
            outputs = inputs.join(parts)
        if not _finite(outputs):
            return  # an untrained model may overflow; a trained one is looked at when it is scored
        try:
            score_outputs(outputs, few.y, metric)
        except InputError:
            raise
        except ArithmeticError:
            return
        except RuntimeError as error:
            raise InputError(f"The metric must be a finite number, but {error}; check {metric.name}.") from None
    finally:
        model.train(training)


def _finite(outputs: Any) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in inputs.tensors(outputs) if t.is_floating_point())
