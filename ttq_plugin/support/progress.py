"""Progress on standard error: bars in a terminal and in a notebook, elsewhere a line now and then."""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ttq_plugin.errors import InputError
from ttq_plugin.support.names import redact, visible
from ttq_plugin.support.quiet import is_quiet

SECONDS = 20.0
"""Seconds between two lines where bars cannot be drawn; TTQ_PROGRESS_SECONDS changes it."""


class Plain(Console):
    """A console that takes texts as they are."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def print(self, *values: Any, **options: Any) -> None:
        """Print; texts without what a terminal would obey, and without secrets."""
        if all(isinstance(value, str) for value in values):
            values, options = tuple(map(safe, values)), {"soft_wrap": True, **options}
        super().print(*values, **options)


def safe(text: str) -> str:
    """A text fit to be shown: control characters are shown, secrets are not."""
    return visible(redact(text))


err = Plain(stderr=True)


class Bars(Progress):
    """Progress that is drawn as bars, printed in lines, or not shown at all.

    Attributes:
        shown: Whether anything is shown, be it bars or lines.
    """

    shown = True

    def tell(self, text: str) -> None:
        """Print a line between the bars, or among the lines that replace them; nothing if nothing is shown."""
        if self.shown:
            self.console.print(text)


class _Count(MofNCompleteColumn):
    """How many of how many; nothing for work that is not counted."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        return Text() if task.total is None else super().render(task)


@contextmanager
def progress(*, shown: bool = True) -> Iterator[Bars]:
    """Show progress as bars, which are removed or complete when the block ends, or as lines if bars cannot be drawn.

    Args:
        shown: Whether anything is shown; within ``silenced`` nothing is.

    Yields:
        The bars.
    """
    shown = shown and not is_quiet()
    drawn = err.is_interactive or err.is_jupyter
    bars = Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Count(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=err,
        disable=not (shown and drawn),
    )
    bars.shown = shown
    if shown and not drawn:
        with _lines(bars, _seconds()):
            yield bars
        return
    # Without ipywidgets, bars in a notebook appear when they are complete; nobody needs to be told at each of them.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message='install "ipywidgets"')
        bars.start()
    try:
        yield bars
    finally:
        bars.stop()


@contextmanager
def _lines(bars: Progress, seconds: float) -> Iterator[None]:
    """Print at regular intervals what is being worked on, and at the end what was counted."""
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(seconds):
            going = [task for task in bars.tasks if not task.finished]
            for task in [task for task in going if task.total is not None] or going:
                err.print(_line(task))

    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
        for task in bars.tasks:
            if task.total is not None:
                err.print(_line(task))


def _line(task: Task) -> str:
    """A task in words, such as "trials: 3 of 40 in 65 s, best MCC 93.10 %"."""
    counted = "" if task.total is None else f"{task.completed:.0f} of {task.total:.0f} in "
    note = task.fields.get("note")
    seconds = task.elapsed if task.finished_time is None else task.finished_time
    return f"{task.description}: {counted}{seconds or 0:.0f} s{f', {note}' if note else ''}"


def _seconds() -> float:
    """The time between two lines."""
    text = os.environ.get("TTQ_PROGRESS_SECONDS", str(SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise InputError(f"TTQ_PROGRESS_SECONDS must be a positive number of seconds, got {text!r}; the default is 20.")
    return seconds


@contextmanager
def stage(bars: Progress, description: str) -> Iterator[None]:
    """Show work whose steps are not counted.

    Args:
        bars: Bars in which to show it.
        description: What is done, such as "measuring".

    Yields:
        Nothing.
    """
    task = bars.add_task(description, total=None, note="")
    try:
        yield
    finally:
        bars.remove_task(task)


@contextmanager
def working(description: str, *, shown: bool = True) -> Iterator[None]:
    """Show work of one stage.

    Args:
        description: What is done.
        shown: Whether anything is shown.

    Yields:
        Nothing.
    """
    with progress(shown=shown) as bars, stage(bars, description):
        yield


def epoch_bar(bars: Progress, description: str, epochs: int) -> Callable[[int, float], None]:
    """A bar over epochs that appears after the first one, and whose time counts from this call.

    Args:
        bars: Bars in which to show it.
        description: What is trained.
        epochs: Number of epochs.

    Returns:
        The callback that moves it, of the epoch (from 1) and its mean loss.
    """
    began = bars.get_time()
    tasks: list[Any] = []

    def on_epoch(epoch: int, loss: float) -> None:
        if not tasks:
            tasks.append(bars.add_task(description, total=epochs, note=""))
            bars.tasks[-1].start_time = began
        bars.update(tasks[0], completed=epoch, note=f"loss {loss:.4f}")

    return on_epoch
