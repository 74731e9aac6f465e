"""What is trained: data, model and recipe under a name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ttq_plugin.errors import InputError

if TYPE_CHECKING:
    from ttq_plugin.tasks.task import Task

TASKS = {"mnist-cnn": "ttq_plugin.tasks.mnist:MNIST_CNN"}
"""Built-in tasks and where they are; imported on first use."""


def get_task(name: str) -> Task:
    """The task of that name.

    Args:
        name: a key of ``TASKS``.

    Returns:
        The task; nothing is loaded or trained yet.

    Raises:
        InputError: if there is none; the message lists those there are.
    """
    check_task(name)
    module, attribute = TASKS[name].split(":")
    task: Task = getattr(importlib.import_module(module), attribute)
    return task


def check_task(name: str) -> None:
    """Check a task's name without importing what it needs.

    Args:
        name: a key of ``TASKS``.

    Raises:
        InputError: if there is none; the message lists those there are.
    """
    if name not in TASKS:
        raise InputError(f"task must be one of {', '.join(TASKS)}, got {name!r}.")
