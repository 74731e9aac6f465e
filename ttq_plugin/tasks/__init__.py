"""Tasks: data, model and training recipe under a name."""

from __future__ import annotations

import importlib
import os
import re
import sys
from itertools import product
from typing import TYPE_CHECKING

from ttq_plugin.errors import InputError
from ttq_plugin.support.frames import explain

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

HYBRID = tuple(
    f"{data}-hybrid{fusion}"
    for data, fusion in product(("esr", "ecg"), ("", "-concatenation", "-sum", "-weighted-sum"))
)
"""Signals and their spectrograms in two branches, fused late by attention, or in between."""

TASKS = (
    dict.fromkeys(("mnist-cnn", "mnist-cnn-full"), "ttq_plugin.tasks.builtin.mnist")
    | dict.fromkeys(ESR, "ttq_plugin.tasks.builtin.esr")
    | dict.fromkeys(HITS, "ttq_plugin.tasks.builtin.hits")
    | dict.fromkeys(ECG, "ttq_plugin.tasks.builtin.ecg")
    | dict.fromkeys(HYBRID, "ttq_plugin.tasks.builtin.hybrid")
    | dict.fromkeys(("cifar10-resnet8", "cifar10-resnet20"), "ttq_plugin.tasks.builtin.cifar10")
    | {
        "ecg-cnn": "ttq_plugin.tasks.builtin.ecg_people",
        "speech-dscnn": "ttq_plugin.tasks.builtin.speech",
        "watch-cnn": "ttq_plugin.tasks.builtin.watch",
    }
)
"""Built-in tasks and the module in whose ``TASKS`` they are; imported on first use."""

OWN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""The form of the name of a task of the user's own."""


def get_task(name: str) -> Task:
    """Look up a task by its name.

    Args:
        name: A key of ``TASKS``, or ``module:attribute`` for a ``Task`` of the user's own, whose module is imported.

    Returns:
        The task; nothing is loaded or trained yet.

    Raises:
        InputError: If there is no such task; the message lists the known ones, or says what failed in the module.
    """
    check_task(name)
    if name not in TASKS:
        return _own(name)
    task: Task = importlib.import_module(TASKS[name]).TASKS[name]
    return task


def _own(name: str) -> Task:
    """The task in a module of the user's: installed, or in the current folder."""
    from dataclasses import replace

    from ttq_plugin.tasks.task import Task

    module, _, attribute = name.partition(":")
    if (here := os.getcwd()) not in sys.path:  # a console script's path does not hold it
        sys.path.append(here)
    try:
        value = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a script's sys.exit() would end the program without a message
        found = getattr(sys.modules.get(module), "__file__", None) if isinstance(error, AttributeError) else None
        where = f"; {module} is {found}" if found else ""
        raise InputError(f"the task {name!r} cannot be imported from {here} ({explain(error)}{where}).") from error
    if not isinstance(value, Task):
        raise InputError(f"{name} must be a ttq_plugin.tasks.task.Task, got {type(value).__name__}.")
    return replace(value, name=name)


def check_task(name: str) -> None:
    """Check a task's name without importing what it needs.

    Args:
        name: A key of ``TASKS``, or ``module:attribute``.

    Raises:
        InputError: If it is neither; the message lists the known ones.
    """
    if name not in TASKS and not OWN.fullmatch(name):
        raise InputError(
            f"task must be one of {', '.join(TASKS)}, got {name!r}; a task of your own is module:attribute."
        )


def check_allowed(source: str, named: object, given: str | None, again: str = "") -> None:
    """Check that a task named by a file or a database may be opened, because their authors must not choose code.

    Args:
        source: What names it, such as a file's path.
        named: The task.
        given: The task that the command line, or a caller, names itself; None if it names none.
        again: The command that would be allowed; "" to name only the option.

    Raises:
        InputError: If it is one of the user's own that is not given, or another one than is given.
    """
    if given is None and isinstance(named, str) and named not in TASKS and OWN.fullmatch(named):
        raise InputError(
            f"{source} searches {named}, and neither a file nor a database makes this program import code; name the "
            f"task yourself: `{again or f'--task {named}'}`."
        )
    if given not in (None, named):
        raise InputError(f"{source} searches {named}, and the task named beside it must be the same, got {given}.")
