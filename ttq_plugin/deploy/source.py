"""Opens a model on disk together with the task that it was made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ttq_plugin.deploy.file.packed import PackedInfo, load_packed, packed_info
from ttq_plugin.deploy.runtime.agreement import takes
from ttq_plugin.errors import InputError
from ttq_plugin.support.inputs import repeated
from ttq_plugin.support.names import shell, with_options
from ttq_plugin.support.weights import load_weights, read_metadata
from ttq_plugin.tasks import OWN, TASKS, get_task
from ttq_plugin.tasks.checks.check import load_data, make_model
from ttq_plugin.tasks.task import Data, Task

PACKED = "ttq_packed"
"""The header's entry that a packed file has."""


@dataclass(frozen=True)
class Source:
    """A model and where it comes from.

    Attributes:
        model: The model, on the CPU, in evaluation mode.
        task: What it was trained for.
        packed: The metadata of a packed file; None for another file.
        where: The user's data file or folder; None for the task's own.
        seed: Random seed of the data's splits.
        notes: Notes for the reader of any result.
    """

    model: nn.Module
    task: Task
    packed: PackedInfo | None = None
    where: Path | None = None
    seed: int = 0
    notes: tuple[str, ...] = ()
    _loaded: dict[str, Data | InputError] = field(default_factory=dict, repr=False, compare=False)

    @property
    def own(self) -> bool:
        """Whether the task is one of the user's."""
        return self.task.name not in TASKS

    def example(self, batch: int = 1) -> Any:
        """Inputs that the model takes, always the same.

        Args:
            batch: How many samples.

        Returns:
            Standard normal samples of the task's shape, whose values mean nothing; training samples where the task
            has no shape, or the model does not accept such samples.

        Raises:
            InputError: If samples are needed and cannot be read.
        """  # noqa: DOC502 - raised by `data`
        if self.task.shape:
            x = self.task.noise(batch)
            if not self.own or self._takes(x):
                return x
        loaded = self.data(needed=True)
        assert loaded is not None
        return repeated(loaded.train.head(batch).x, batch)

    def data(self, *, needed: bool = False) -> Data | None:
        """The task's data, loaded once.

        Args:
            needed: Whether to fail if there are none.

        Returns:
            The splits; None if none were named, found or needed.

        Raises:
            InputError: If they were named or are needed, and cannot be read.
        """
        if "data" not in self._loaded:
            try:
                self._loaded["data"] = load_data(self.task, self.where, self.seed)
            except InputError as error:
                self._loaded["data"] = error
        found = self._loaded["data"]
        if isinstance(found, Data):
            return found
        if needed or self.where is not None:
            raise found
        return None

    def _takes(self, x: Any) -> bool:
        with torch.inference_mode():
            return takes(self.model, x, 1)


def task_entries(name: str) -> tuple[str | None, dict[str, str]]:
    """How a packed file says its task.

    Args:
        name: Name of the task.

    Returns:
        The name of a built-in task, which a reader may open; what is kept for people of another one.
    """
    return (name, {}) if name in TASKS else (None, {"task": name})


def open_model(
    path: Path,
    task: str | None = None,
    *,
    data: Path | None = None,
    seed: int | None = None,
    command: Sequence[str] = (),
    signed: bool = False,
) -> Source:
    """Read a model that ``ttq train --out``, ``ttq compress --out``, a search or ``save_packed`` wrote.

    A file never makes anything be imported: a task of the user's own is opened only where ``task`` names it.

    Args:
        path: The safetensors file, packed or plain.
        task: What it was made for; None for the built-in task that the file names.
        data: The user's data file or folder; None for the task's own.
        seed: Random seed of the data's splits; None for the one stored in the file.
        command: Arguments of the running command, repeated with ``--task`` in the error message.
        signed: Whether the file must have a digest, as each that this package wrote has.

    Returns:
        The filled model with its task.

    Raises:
        InputError: If the file is missing, damaged, names no task or another one, or holds another architecture's
            weights.
    """
    metadata = read_metadata(path)
    info = packed_info(path) if PACKED in metadata else None
    named = (info.task or info.more.get("task")) if info else metadata.get("task")
    notes = _check_task(path, named, task, command)
    described = get_task(task or str(named))
    with torch.random.fork_rng(devices=[]):
        model = make_model(described)
    if info:
        load_packed(path, model=model)
    else:
        load_weights(model, path, unsigned=named is None and not signed)
    told = str(info.more.get("seed", "") if info else metadata.get("seed", ""))
    splits = seed if seed is not None else int(told) if told.isdecimal() else 0
    return Source(model.eval(), described, info, data, splits, notes)


def _check_task(path: Path, named: Any, given: str | None, command: Sequence[str]) -> tuple[str, ...]:
    """Refuse what names no task that may be opened; a note where the file names another one of the user's."""
    if given is None:
        if named in TASKS:
            return ()
        if isinstance(named, str) and OWN.fullmatch(named):
            again = f"`{shell(with_options(command, '--task', named))}`" if command else f"task={named!r}"
            raise InputError(
                f"{path} holds a model of the task {named}, and a file never makes this program import code; name the "
                f"task yourself: {again}."
            )
        came = f"names {named!r}" if named else "names none"
        raise InputError(
            f"{path} must name a built-in task, but it {came}; `ttq compress --out` writes such files, and --task "
            f"names "
            "the task of others."
        )
    if named in (None, given):
        return ()
    if given in TASKS or named in TASKS or not isinstance(named, str) or not OWN.fullmatch(named):
        raise InputError(f"{path} holds a model of the task {named!r}, and --task must name the same, got {given!r}.")
    return (f"the file names the task {named}, and was opened as {given}.",)
