"""Progress bars on standard error, in a terminal and in a notebook."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ttq_plugin.support.names import redact, visible


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


@contextmanager
def progress(*, shown: bool = True) -> Iterator[Progress]:
    """Progress bars, gone or complete when the block ends.

    Args:
        shown: whether anything is drawn.

    Yields:
        The bars.
    """
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=err,
        disable=not shown,
    )
    # Without ipywidgets, bars in a notebook appear when they are complete; nobody needs to be told at each of them.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message='install "ipywidgets"')
        bars.start()
    try:
        yield bars
    finally:
        bars.stop()


def epoch_bar(bars: Progress, description: str, epochs: int) -> Callable[[int, float], None]:
    """A bar over epochs that appears with the first one; returns the callback that moves it."""
    tasks: list[Any] = []

    def on_epoch(epoch: int, loss: float) -> None:
        if not tasks:
            tasks.append(bars.add_task(description, total=epochs, note=""))
        bars.update(tasks[0], completed=epoch, note=f"loss {loss:.4f}")

    return on_epoch
