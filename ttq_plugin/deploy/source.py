"""A model on disk, opened with the task that it was made for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ttq_plugin.deploy.packed import PackedInfo, load_packed, packed_info
from ttq_plugin.errors import InputError
from ttq_plugin.files import load_weights, read_metadata
from ttq_plugin.tasks import TASKS, get_task
from ttq_plugin.tasks.task import Data, Task

PACKED = "ttq_packed"
"""The header's entry that a packed file has."""


@dataclass(frozen=True)
class Source:
    """A model and where it comes from.

    Attributes:
        model: on the CPU, in evaluation mode.
        task: what it was trained for.
        packed: what a packed file says of itself; None for another file.
    """

    model: nn.Module
    task: Task
    packed: PackedInfo | None = None

    def example(self, batch: int = 1) -> Tensor:
        """Standard normal samples of the task's shape, (batch, ...), always the same: their values mean nothing."""
        return torch.randn(batch, *self.task.shape, generator=torch.Generator().manual_seed(0))

    def data(self, where: Path | None, seed: int, *, needed: bool = False) -> Data | None:
        """The task's data.

        Args:
            where: the user's data file or folder; None for the task's own.
            seed: of the splits.
            needed: whether to fail where there are none.

        Returns:
            The splits; None where none were named, none are at hand and none are needed.

        Raises:
            InputError: if they were named or are needed, and cannot be read.
        """
        try:
            return self.task.load(where, seed)
        except InputError:
            if needed or where is not None:
                raise
            return None


def open_model(path: Path) -> Source:
    """Read a model that ``ttq train --out``, ``ttq compress --out`` or ``save_packed`` wrote.

    Args:
        path: the safetensors file, packed or plain.

    Returns:
        The filled model with its task.

    Raises:
        InputError: if the file is missing, damaged, names no built-in task, or holds another architecture's weights.
    """
    metadata = read_metadata(path)
    info = packed_info(path) if PACKED in metadata else None
    name = info.task if info else metadata.get("task")
    if name not in TASKS:
        came = f"names {name!r}" if name else "names none"
        raise InputError(f"{path} must name a built-in task, it {came}; `ttq compress --out` writes such files.")
    task = get_task(name)
    if info:
        return Source(load_packed(path), task, info)
    with torch.random.fork_rng(devices=[]):
        model = task.model()
    load_weights(model, path)
    return Source(model.eval(), task)
