"""Tables to standard output, progress to standard error.

Everything printed is treated as data: rich's markup and emoji codes are off, control characters are escaped, passwords
in URLs are hidden, and nothing is wrapped, so that commands can be copied and pasted.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.table import Table

from ttq_plugin.support.names import line, redact
from ttq_plugin.support.progress import Plain, epoch_bar, err, progress, safe, working

__all__ = ["epoch_bar", "err", "out", "percent", "print_json", "progress", "safe", "table", "working"]


# Rich cuts tables to 80 columns where it sees no terminal; a file or a pipe has no such edge.
out = Plain(soft_wrap=True, width=None if sys.stdout.isatty() else 160)


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as a percentage."""
    return "" if value is None else f"{100 * value:.{digits}f} %"


def print_json(value: Any) -> None:
    """Print one JSON object to standard output, without passwords in URLs."""
    print(json.dumps(_redacted(value), indent=2, allow_nan=False))


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {_redacted(key): _redacted(entry) for key, entry in value.items()}
    return [_redacted(entry) for entry in value] if isinstance(value, list | tuple) else value


def _cell(text: str) -> str:
    """The text of a cell on one line."""
    return line(redact(text))


def table(title: str, columns: dict[str, str], rows: list[list[str]]) -> None:
    """Print a table; ``columns`` maps headings to rich's justification."""
    shown = Table(
        title=safe(title), title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False
    )
    for heading, justify in columns.items():
        shown.add_column(_cell(heading), justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in rows:
        shown.add_row(*map(_cell, row))
    out.print(shown)
