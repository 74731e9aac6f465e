"""Tables to standard output, progress to standard error.

What is printed is data: rich's markup and emoji codes are off, control characters are written instead of obeyed, the
secrets of URLs are hidden, and nothing is wrapped, so that a command can be pasted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ttq_plugin.names import redact, visible
from ttq_plugin.tasks.training import OnEpoch


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
    """A text fit to be shown: see the module."""
    return visible(redact(text))


# Rich cuts tables to 80 columns where it sees no terminal; a file or a pipe has no such edge.
out = Plain(soft_wrap=True, width=None if sys.stdout.isatty() else 160)
err = Plain(stderr=True)


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in per cent, as people read it."""
    return "" if value is None else f"{100 * value:.{digits}f} %"


def print_json(value: Any) -> None:
    """One JSON object on standard output, without the secrets of URLs."""
    print(json.dumps(_redacted(value), indent=2, allow_nan=False))


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {_redacted(key): _redacted(entry) for key, entry in value.items()}
    return [_redacted(entry) for entry in value] if isinstance(value, list | tuple) else value


def table(title: str, columns: dict[str, str], rows: list[list[str]]) -> None:
    """Print a table; ``columns`` maps headings to rich's justification."""
    shown = Table(
        title=safe(title), title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False
    )
    for heading, justify in columns.items():
        shown.add_column(safe(heading), justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in rows:
        shown.add_row(*map(safe, row))
    out.print(shown)


@contextmanager
def progress() -> Iterator[Progress]:
    """Progress bars on standard error, gone or complete when the block ends."""
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=err,
    )
    with bars:
        yield bars


def epoch_bar(bars: Progress, description: str, epochs: int) -> OnEpoch:
    """A bar over epochs that appears with the first one; returns the callback that moves it."""
    tasks: list[Any] = []

    def on_epoch(epoch: int, loss: float) -> None:
        if not tasks:
            tasks.append(bars.add_task(description, total=epochs, note=""))
        bars.update(tasks[0], completed=epoch, note=f"loss {loss:.4f}")

    return on_epoch
