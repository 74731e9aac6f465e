"""Runs tasks after each training epoch, if NNI's evaluator has a trainer that knows its epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nni.compression.utils import Evaluator, LightningEvaluator, TransformersEvaluator

from ttq_plugin.errors import InputError


def check_length(called: str, max_steps: int | None, max_epochs: int | None) -> None:
    """Check how long a training is to be.

    Args:
        called: The function that trains, for the message.
        max_steps: Most training steps, or None.
        max_epochs: Most training epochs, or None.

    Raises:
        InputError: If neither is given, or one is below zero; zero is a training of no step.
    """
    if max_steps is None and max_epochs is None:
        raise InputError(f"{called} needs max_steps or max_epochs, got neither.")
    for name, value in (("max_steps", max_steps), ("max_epochs", max_epochs)):
        if value is not None and value < 0:
            raise InputError(f"{name} must be at least 0, got {value}.")


def check_reports(every: int | str, evaluator: Evaluator | None) -> None:
    """Check how often a training's health is to be reported.

    Args:
        every: Steps between two calls, or ``"epoch"``.
        evaluator: NNI's.

    Raises:
        InputError: If the interval is invalid, or the evaluator knows no epochs.
    """
    if every == "epoch":
        check_knows_epochs(evaluator)
    elif not isinstance(every, int) or every < 1:
        raise InputError(f'health_every must be a whole number of steps, at least 1, or "epoch", got {every!r}.')


def check_knows_epochs(evaluator: Evaluator | None) -> None:
    """Check that this evaluator's trainer reports its epochs.

    Args:
        evaluator: NNI's.

    Raises:
        InputError: If its training loop is the user's own function.
    """
    if not isinstance(evaluator, (LightningEvaluator, TransformersEvaluator)):
        raise InputError(
            'health_every="epoch" needs a LightningEvaluator or TransformersEvaluator, got '
            f"{type(evaluator).__name__}, whose loop hides its epochs; pass the number of steps per epoch, "
            f"health_every=len(loader)."
        )


def call_each_epoch(evaluator: Evaluator, task: Callable[[], object]) -> Callable[[], None]:
    """Have ``task`` called after each epoch of the training that is about to begin.

    Args:
        evaluator: One that ``check_knows_epochs`` accepts.
        task: Called without arguments.

    Returns:
        What undoes it.
    """
    if isinstance(evaluator, LightningEvaluator):
        tasks: list[Callable[[], object]] = evaluator.__dict__.setdefault("ttq_each_epoch", [])
        tasks.append(task)
        return lambda: tasks.remove(task)
    assert isinstance(evaluator, TransformersEvaluator)  # see check_knows_epochs
    from transformers import TrainerCallback

    class EachEpoch(TrainerCallback):
        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            task()

    callback, trainer = EachEpoch(), evaluator.trainer
    trainer.add_callback(callback)
    return lambda: trainer.remove_callback(callback)


def call_at_start(evaluator: Evaluator, task: Callable[[Any], object]) -> Callable[[], None]:
    """Have ``task`` called with the number of optimiser steps when the next training begins, if its trainer knows it.

    Args:
        evaluator: NNI's; one whose training loop is the user's own function never calls.
        task: Called with what the trainer takes for that number.

    Returns:
        What undoes it.
    """
    if isinstance(evaluator, LightningEvaluator):
        tasks: list[Callable[[Any], object]] = evaluator.__dict__.setdefault("ttq_at_start", [])
        tasks.append(task)
        return lambda: tasks.remove(task)
    if not isinstance(evaluator, TransformersEvaluator):
        return lambda: None
    from transformers import TrainerCallback

    class AtStart(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            task(state.max_steps)

    callback, trainer = AtStart(), evaluator.trainer
    trainer.add_callback(callback)
    return lambda: trainer.remove_callback(callback)


def lightning_callbacks(evaluator: Any) -> list[Any]:
    """The tasks as callbacks of a Lightning trainer, which NNI makes anew for each training."""
    import pytorch_lightning as pl

    class EachEpoch(pl.Callback):
        def on_train_start(self, trainer: Any, *_: Any, **__: Any) -> None:
            for task in evaluator.__dict__.get("ttq_at_start", []):
                task(trainer.estimated_stepping_batches)

        def on_train_epoch_end(self, *_: Any, **__: Any) -> None:
            for task in evaluator.__dict__.get("ttq_each_epoch", []):
                task()

    return [EachEpoch()]
