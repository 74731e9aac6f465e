"""A compressed model on disk, opened with the task that it was made for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ttq_plugin.deploy.container import KEY
from ttq_plugin.deploy.packed import load_packed, packed_info
from ttq_plugin.errors import InputError
from ttq_plugin.files import load_weights, read_metadata
from ttq_plugin.tasks import TASKS, get_task
from ttq_plugin.tasks.task import Task


@dataclass(frozen=True)
class Source:
    """A model and where it comes from.

    Attributes:
        model: on the CPU, in evaluation mode.
        task: what it was trained for.
        metadata: what the file's header says.
    """

    model: nn.Module
    task: Task
    metadata: dict[str, str]

    def example(self, batch: int = 1) -> Tensor:
        """Standard normal samples of the task's shape, (batch, ...), always the same: their values mean nothing."""
        return torch.randn(batch, *self.task.shape, generator=torch.Generator().manual_seed(0))


def open_model(path: Path) -> Source:
    """Read a model that ``ttq train --out`` or ``ttq compress --out`` wrote.

    Args:
        path: the safetensors file.

    Returns:
        The filled model with its task.

    Raises:
        InputError: if the file is missing, damaged, names no built-in task, or holds another architecture's weights.
    """
    metadata = read_metadata(path)
    packed = KEY in metadata
    if packed:
        info = packed_info(path)
        metadata = {"task": info.task or "", "method": info.method or ""}
    name = metadata.get("task", "")
    if name not in TASKS:
        came = f"names {name!r}" if name else "names none"
        raise InputError(
            f"the header of {path} must name a built-in task, it {came}; `ttq compress --out` writes such files."
        )
    task = get_task(name)
    model = load_packed(path) if packed else task.model()
    if not packed:
        load_weights(model, path)
    return Source(model.eval(), task, metadata)
