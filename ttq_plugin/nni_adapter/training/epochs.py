"""What is to happen after each training epoch, where NNI's evaluator has a trainer that knows its epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nni.compression.utils import Evaluator, LightningEvaluator, TransformersEvaluator

from ttq_plugin.errors import InputError


def check_knows_epochs(evaluator: Evaluator | None) -> None:
    """Check that this evaluator's trainer tells of its epochs.

    Args:
        evaluator: NNI's.

    Raises:
        InputError: if its training loop is the user's own function.
    """
    if not isinstance(evaluator, (LightningEvaluator, TransformersEvaluator)):
        raise InputError(
            'health_every="epoch" needs a LightningEvaluator or TransformersEvaluator, got '
            f"{type(evaluator).__name__}, whose loop hides its epochs; pass the steps of one, health_every=len(loader)."
        )


def call_each_epoch(evaluator: Evaluator, task: Callable[[], object]) -> Callable[[], None]:
    """Have ``task`` called after each epoch of the training that is about to begin.

    Args:
        evaluator: one that ``check_knows_epochs`` accepts.
        task: called without arguments.

    Returns:
        What undoes it.
    """
    if isinstance(evaluator, LightningEvaluator):
        tasks: list[Callable[[], object]] = evaluator.__dict__.setdefault("ttq_each_epoch", [])
        tasks.append(task)
        return lambda: tasks.remove(task)
    from transformers import TrainerCallback

    class EachEpoch(TrainerCallback):
        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            task()

    callback, trainer = EachEpoch(), evaluator.trainer
    trainer.add_callback(callback)
    return lambda: trainer.remove_callback(callback)


def lightning_callbacks(evaluator: Any) -> list[Any]:
    """The tasks as callbacks of a Lightning trainer, which NNI makes anew for each training."""
    import pytorch_lightning as pl

    class EachEpoch(pl.Callback):
        def on_train_epoch_end(self, *_: Any, **__: Any) -> None:
            for task in evaluator.__dict__.get("ttq_each_epoch", []):
                task()

    return [EachEpoch()]
