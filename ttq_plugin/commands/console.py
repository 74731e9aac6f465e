"""Tables to standard output, progress to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ttq_plugin.tasks.training import OnEpoch

# Rich cuts tables to 80 columns where it sees no terminal; a file or a pipe has no such edge.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False)


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in per cent, as people read it."""
    return "" if value is None else f"{100 * value:.{digits}f} %"


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value, indent=2, allow_nan=False))


def table(title: str, columns: dict[str, str], rows: list[list[str]]) -> None:
    """Print a table; ``columns`` maps headings to rich's justification."""
    shown = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for heading, justify in columns.items():
        shown.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in rows:
        shown.add_row(*row)
    out.print(shown)


@contextmanager
def progress() -> Iterator[Progress]:
    """Progress bars on standard error, gone or complete when the block ends."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
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
