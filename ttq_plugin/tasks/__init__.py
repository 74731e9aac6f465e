"""What is trained: data, model and recipe under a name."""

from __future__ import annotations

import importlib
from itertools import product
from typing import TYPE_CHECKING

from ttq_plugin.errors import InputError

if TYPE_CHECKING:
    from ttq_plugin.tasks.task import Task

ESR = tuple(
    f"esr-{model}{split}{classes}"
    for model, split, classes in product(("2dcnn", "cnn-transformer"), ("", "-rows"), ("", "-5"))
)
"""Epileptic seizures, by model; split by recording or (-rows) by row as in the papers; two classes or (-5) all five."""

HITS = ("hits-2dcnn", "hits-cnn-transformer")
"""Emboli in transcranial Doppler: a user's recordings, or simulated ones, which every output says."""

ECG = tuple(f"ecg-{model}{source}" for model, source in product(("2dcnn", "cnn-transformer"), ("", "-ptb")))
"""Heart beats: MIT-BIH's five classes, or (-ptb) normal against abnormal ones."""

TASKS = (
    {"mnist-cnn": "ttq_plugin.tasks.mnist"}
    | dict.fromkeys(ESR, "ttq_plugin.tasks.esr")
    | dict.fromkeys(HITS, "ttq_plugin.tasks.hits")
    | dict.fromkeys(ECG, "ttq_plugin.tasks.ecg")
)
"""Built-in tasks and the module in whose ``TASKS`` they are; imported on first use."""


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
    task: Task = importlib.import_module(TASKS[name]).TASKS[name]
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
