"""The full-precision model: trained once per task, seed and data and then read from the cache, or the user's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path
from torch import nn

from ttq_plugin.errors import InputError
from ttq_plugin.support import inputs
from ttq_plugin.support.files import REMEDY
from ttq_plugin.support.names import file_name
from ttq_plugin.support.seeds import seeded
from ttq_plugin.support.weights import load_weights, save_weights
from ttq_plugin.tasks.checks.check import make_model
from ttq_plugin.tasks.checks.identity import identity
from ttq_plugin.tasks.forward import at_precision, copy_dropout, set_dropout
from ttq_plugin.tasks.scoring.scores import score
from ttq_plugin.tasks.task import Data, Task
from ttq_plugin.tasks.training import OnEpoch, optimizer_by, scheduler_by, train_by

LONGEST_LABEL = 80
"""Largest number of bytes of a task's name in a file name; the rest distinguishes tasks with equal names."""


@dataclass(frozen=True)
class FullPrecision:
    """A trained full-precision model.

    Attributes:
        model: The model, in eval mode, on the CPU.
        score: The task's metric on the validation split.
        path: Its file in the cache; what else is cached for it lies beside, with another ending. Of the user's own
            weights, the file that it would have there.
        trained: Whether this call trained it.
        parts: What the score is made of, such as the recall of each class.
        origin: Where the model comes from, in words: trained, from the cache, or from the user's file.
    """

    model: nn.Module
    score: float
    path: Path
    trained: bool
    parts: dict[str, float] = field(default_factory=dict)
    origin: str = ""


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
    weights: Path | None = None,
    retrain: bool = False,
    on_epoch: OnEpoch | None = None,
) -> FullPrecision:
    """The task's full-precision model for this data and seed: the user's own, from the cache, or trained now.

    A cached model is reused only if data, recipe, the code of model and loss, and the initial weights are the same as
    when it was trained.

    Args:
        task: The task whose model is trained.
        data: The data: the model is trained on its training split and scored on its validation split.
        seed: Random seed of the initial weights, dropout and sample order.
        device: Device to train on.
        cache: Folder of trained models, see ``cache_folder``.
        weights: A safetensors file with the model's state dict; nothing is trained then.
        retrain: Whether to train in any case, and replace what is cached.
        on_epoch: Called after each epoch if it is trained.

    Returns:
        The model and its score.

    Raises:
        InputError: If the cache folder cannot be written, the cached model was damaged, or the weights are not the
            model's.
    """
    if weights is not None and retrain:
        raise InputError(
            "Your own weights are used as they are and cannot be trained again; leave out either weights or retrain."
        )
    with seeded(seed):
        start = make_model(task)
    if weights is not None:
        load_weights(start, weights, unsigned=True)
    path = cache_folder(cache) / f"{_name(task, data, seed, start, own=weights is not None)}.safetensors"
    if weights is not None:
        model = start.eval()
        found = score(model, data.validation, task.score)
        return FullPrecision(model, found.value, path, False, found.parts, f"from your file {weights}")
    # Two searches that start together train once: the second waits and reads.
    with _locked(path):
        if path.is_file() and not retrain:
            try:
                load_weights(start, path)
            except InputError as error:
                fault = str(error).removesuffix(".").removesuffix(f"; {REMEDY}").removesuffix(f": {REMEDY}")
                raise InputError(
                    f"The cached full-precision model cannot be used: {fault}; delete it, or pass --retrain, to train "
                    "it again."
                ) from None
            return _cached(task, data, start.eval(), path)
        with seeded(seed, device):
            return replace(_trained(task, data, seed, device, path, on_epoch), origin="trained now")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; only what the folder itself refuses is its fault, not what a user's code raises inside."""
    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise InputError(f"the cache folder {path.parent} cannot be written ({error.strerror or error}).") from None
    try:
        yield
    finally:
        lock.release()


def _name(task: Task, data: Data, seed: int, start: nn.Module, *, own: bool) -> str:
    """The name of a model's file: the task, and everything that the trained model follows from."""
    label = f"{task.name}-SIMULATED" if data.simulated else task.name
    label = file_name(label.replace(":", "_"), LONGEST_LABEL)  # a module:attribute of the user's own is read easily
    code = identity(start, task.model, task.loss, getattr(data.train, "collate", None))
    recipe = "own" if own else task.recipe.fingerprint()
    balanced = "-balanced" if task.balanced and not own else ""
    return f"{label}-seed{seed}-{data.fingerprint()}-{recipe}-{code}{balanced}"


def _cached(task: Task, data: Data, model: nn.Module, path: Path) -> FullPrecision:
    """The model that the file filled, scored."""
    found = score(model, data.validation, task.score)
    when = datetime.fromtimestamp(path.stat().st_mtime)
    origin = f"from the cache ({path}, {when:%Y-%m-%d %H:%M})"
    return FullPrecision(model, found.value, path, False, found.parts, origin)


def _trained(task: Task, data: Data, seed: int, device: str, path: Path, on_epoch: OnEpoch | None) -> FullPrecision:
    model = make_model(task).to(device)
    recipe = task.recipe
    split = data.train.to(device)
    loss = task.loss_for(split)
    set_dropout(model, recipe.dropout)
    optimizer = optimizer_by(recipe, model.parameters(), recipe.lr)
    scheduler = scheduler_by(recipe, optimizer, split, lr=recipe.lr, epochs=recipe.epochs)
    step = at_precision(lambda batch, net: loss(inputs.call(net, batch[0]), batch[1]), recipe.precision)
    train_by(recipe, model, optimizer, scheduler, step, split, epochs=recipe.epochs, seed=seed, on_epoch=on_epoch)
    model = model.cpu().eval()
    copy_dropout(make_model(task), model)
    found = score(model, data.validation, task.score)
    about = {"task": task.name, "seed": str(seed), task.score.name: repr(found.value)}
    save_weights(model, path, about)
    return FullPrecision(model, found.value, path, True, found.parts)
