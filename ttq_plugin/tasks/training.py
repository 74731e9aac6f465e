"""The training loop, shared by full-precision models and by compressions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ttq_plugin.errors import Diverged
from ttq_plugin.support.frames import of_the_user
from ttq_plugin.support.inputs import batch_size as samples_of
from ttq_plugin.tasks.samples import Batch, Samples
from ttq_plugin.tasks.schedules import OPTIMIZERS, SCHEDULES, Trace
from ttq_plugin.tasks.task import Recipe

OnEpoch = Callable[[int, float], None]
"""Called after each epoch with its number (from 1) and its mean training loss."""


def train(
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    training_step: Callable[[Batch, nn.Module], Tensor],
    split: Samples,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    every_batch: bool = False,
    needs_metric: bool = False,
    on_epoch: OnEpoch | None = None,
) -> None:
    """Train for ``epochs``.

    Args:
        model: Trained in place, left in train mode.
        optimizer: The optimizer of the model's parameters.
        scheduler: The scheduler of the optimiser, or None.
        training_step: ``(batch, model) -> loss``.
        split: The training samples.
        epochs: Passes over them.
        batch_size: Samples a step.
        seed: Random seed of the order of the samples.
        every_batch: Whether the scheduler steps after each batch, instead of each epoch.
        needs_metric: Whether its step takes the epoch's mean training loss.
        on_epoch: Called after each epoch.

    Raises:
        Diverged: If an epoch's loss is NaN or infinite.
        InputError: If the user's code fails; the message names its line.
    """
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for epoch in range(1, epochs + 1):
        losses: list[Tensor] = []
        with of_the_user(f"Training in epoch {epoch} of {epochs}", always=False):
            for batch in split.batches(batch_size, generator):
                optimizer.zero_grad(set_to_none=True)
                if (loss := _loss(training_step, batch, model, last=bool(losses))) is None:
                    continue
                loss.backward()
                optimizer.step()
                if scheduler is not None and every_batch:
                    scheduler.step()
                losses.append(loss.detach())
        mean = torch.stack(losses).mean().item()
        if not torch.isfinite(torch.tensor(mean)):
            raise Diverged(f"the training loss became {mean} in epoch {epoch} of {epochs}")
        if scheduler is not None and not every_batch:
            step: Callable[..., None] = scheduler.step  # a plateau's takes the metric
            step(*([mean] if needs_metric else []))
        if on_epoch is not None:
            on_epoch(epoch, mean)


def optimizer_by(recipe: Recipe, parameters: Iterable[Any], lr: float, trace: Trace | None = None) -> Optimizer:
    """The recipe's optimiser of these parameters, or groups of them, at this learning rate."""
    kind = OPTIMIZERS[recipe.optimizer]
    return kind.make(parameters, lr=lr, weight_decay=recipe.weight_decay, trace=trace)


def scheduler_by(
    recipe: Recipe, optimizer: Optimizer, split: Samples, *, lr: float, epochs: int, trace: Trace | None = None
) -> LRScheduler | None:
    """The recipe's schedule for a training of ``epochs`` passes over the split that begins at ``lr``."""
    return SCHEDULES[recipe.schedule].make(optimizer, recipe.course(lr, epochs, len(split)), trace=trace)


def train_by(
    recipe: Recipe,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    training_step: Callable[[Batch, nn.Module], Tensor],
    split: Samples,
    *,
    epochs: int,
    seed: int,
    on_epoch: OnEpoch | None = None,
) -> None:
    """``train`` with the batch size and the schedule's manner of the recipe."""
    schedule = SCHEDULES[recipe.schedule]
    train(
        model,
        optimizer,
        scheduler,
        training_step,
        split,
        epochs=epochs,
        batch_size=recipe.batch_size,
        seed=seed,
        every_batch=schedule.every_batch,
        needs_metric=schedule.needs_metric,
        on_epoch=on_epoch,
    )


def _loss(step: Callable[[Batch, nn.Module], Tensor], batch: Batch, model: nn.Module, *, last: bool) -> Tensor | None:
    """The loss of a batch; None for one sample left over at an epoch's end that BatchNorm cannot learn from."""
    try:
        return step(batch, model)
    except ValueError as error:
        if last and "more than 1 value per channel" in str(error) and samples_of(batch[0]) == 1:
            return None
        raise
