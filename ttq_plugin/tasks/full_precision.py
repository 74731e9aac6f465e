"""The full-precision model, trained once per task, seed and data, then read from the cache."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from platformdirs import user_cache_path
from torch import nn

from ttq_plugin.errors import InputError
from ttq_plugin.files import load_weights, save_weights
from ttq_plugin.tasks.forward import at_precision, copy_dropout, set_dropout
from ttq_plugin.tasks.schedules import OPTIMIZERS, SCHEDULES
from ttq_plugin.tasks.task import Data, Task
from ttq_plugin.tasks.training import OnEpoch, mcc, train


@dataclass(frozen=True)
class FullPrecision:
    """A trained full-precision model.

    Attributes:
        model: in eval mode, on the CPU.
        mcc: Matthews correlation coefficient on the validation split.
        path: its file in the cache; what else is cached for it lies beside, with another ending.
        trained: whether this call trained it.
    """

    model: nn.Module
    mcc: float
    path: Path
    trained: bool


def cache_folder(cache: Path | None = None) -> Path:
    """Where trained models are kept: the argument, else TTQ_CACHE_DIR, else the user's cache folder."""
    named = os.environ.get("TTQ_CACHE_DIR")
    return cache or (Path(named) if named else user_cache_path("ttq-plugin"))


def full_precision(
    task: Task,
    data: Data,
    *,
    seed: int,
    device: str = "cpu",
    cache: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> FullPrecision:
    """The task's full-precision model for this data and seed, from the cache or trained now.

    Args:
        task: what to train.
        data: its training split is learned, its validation split scored.
        seed: of the initial weights, dropout and sample order.
        device: where to train.
        cache: folder of trained models, see ``cache_folder``.
        on_epoch: called after each epoch if it is trained.

    Returns:
        The model and its score.

    Raises:
        InputError: if the cache folder cannot be written.
    """
    label = f"{task.name}-SIMULATED" if data.simulated else task.name
    label = re.sub(r"[^\w.-]", "_", label)  # of a user's own task
    name = f"{label}-seed{seed}-{data.fingerprint()}-{task.recipe.fingerprint()}"
    path = cache_folder(cache) / f"{name}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two searches that start together train once: the second waits and reads.
        with FileLock(f"{path}.lock"), torch.random.fork_rng():
            return _cached(task, path) or _trained(task, data, seed, device, path, on_epoch)
    except OSError as error:
        raise InputError(f"the cache folder {path.parent} cannot be written ({error.strerror or error}).") from None


def _cached(task: Task, path: Path) -> FullPrecision | None:
    """The model in the file, or None if there is none or it is damaged (then it is trained again)."""
    model = task.model().eval()
    try:
        return FullPrecision(model, float(load_weights(model, path)["mcc"]), path, trained=False)
    except (InputError, KeyError, ValueError):
        return None


def _trained(task: Task, data: Data, seed: int, device: str, path: Path, on_epoch: OnEpoch | None) -> FullPrecision:
    torch.manual_seed(seed)
    model = task.model().to(device)
    recipe = task.recipe
    split = data.train.to(device)
    loss = task.loss_for(split)
    set_dropout(model, recipe.dropout)
    schedule = SCHEDULES[recipe.schedule]
    optimizer = OPTIMIZERS[recipe.optimizer].make(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    train(
        model,
        optimizer,
        schedule.make(optimizer, recipe.course(recipe.lr, recipe.epochs, len(split))),
        at_precision(lambda batch, net: loss(net(batch[0]), batch[1]), recipe.precision),
        split,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        seed=seed,
        every_batch=schedule.every_batch,
        needs_metric=schedule.needs_metric,
        on_epoch=on_epoch,
    )
    model = model.cpu().eval()
    copy_dropout(task.model(), model)
    score = mcc(model, data.validation)
    save_weights(model, path, {"task": task.name, "seed": str(seed), "mcc": repr(score)})
    return FullPrecision(model, score, path, trained=True)
