"""Tables of the documentation that the code itself fills, so that they cannot go out of date."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

import ttq_plugin
from ttq_plugin.cli import cli
from ttq_plugin.methods import METHODS, THRESHOLDS
from ttq_plugin.search.space.objectives import GAINS, PLAIN
from ttq_plugin.search.space.samplers import SAMPLERS
from ttq_plugin.tasks import TASKS, get_task
from ttq_plugin.tasks.metrics import METRICS


def rows(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Make a Markdown table; bars inside cells are escaped."""
    head = list(head)
    made = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in made)


def methods() -> str:
    """Every method of the table."""
    return rows(
        ("name", "what it is", "numbers", "learned besides the weights", "per channel", "source"),
        (
            (
                f"`{row.name}`",
                row.description,
                ", ".join(f"`{number.name}` = {number.start:g}" for number in row.numbers) or "none",
                ", ".join(sorted(row.learns, key=lambda word: word == THRESHOLDS)) or "nothing",
                "yes" if row.channels else "no",
                row.source or "this project",
            )
            for row in METHODS.values()
        ),
    )


def equations() -> str:
    """Where the thresholds of each method lie."""
    return rows(("method", "thresholds"), ((f"`{row.name}`", f"${row.equation}$") for row in METHODS.values()))


def commands() -> str:
    """Every command with its first sentence, and its help in full."""
    found = []
    for name, command in cli.commands.items():
        context = click.Context(command, info_name=f"ttq {name}", max_content_width=96, terminal_width=96)
        found.append(f"## ttq {name}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(found)


def quantities() -> str:
    """What may be an objective or a constraint, beside the metrics."""
    known = {name: (quantity, "yes") for name, quantity in GAINS.items()}
    known |= {name: (quantity, "") for name, quantity in PLAIN.items() if name not in known}
    lines = ((f"`{name}`", quantity.meaning, objective) for name, (quantity, objective) in known.items())
    return rows(("name", "meaning", "objective"), lines)


def samplers() -> str:
    """The samplers."""
    return rows(("name", "what it does"), ((f"`{name}`", words) for name, words in SAMPLERS.items()))


def tasks() -> str:
    """The built-in tasks."""
    return rows(("name", "what it is"), ((f"`{name}`", get_task(name).description) for name in TASKS))


def metrics() -> str:
    """The metrics by name."""
    found = ((f"`{name}`", "higher" if metric.higher else "lower") for name, metric in METRICS.items())
    return rows(("name", "better when"), found)


def exported() -> str:
    """The reference of every exported name that no page of the reference names itself."""
    pages = "\n".join(page.read_text() for page in (Path(__file__).parent / "reference").glob("*.md"))
    named = {found.rsplit(".", 1)[-1] for found in re.findall(r"^::: (\S+)$", pages, re.MULTILINE)}
    homes = {name: home for name, home in ttq_plugin._HOMES.items() if name not in {*named, "METHODS"}}
    return "\n\n".join(f"::: {home}.{name}" for name, home in sorted(homes.items()))


def _zoo() -> dict[str, dict[str, Any]]:
    """What the tests try with each network, and which refusals they expect."""
    found: dict[str, dict[str, Any]] = json.loads((Path(__file__).parents[1] / "tests/zoo/table.json").read_text())
    return found


def zoo() -> str:
    """Each network by each column."""
    table = _zoo()
    head = ("network", *table["columns"])
    lines = []
    for name, words in table["networks"].items():
        refused = table["refused"].get(name, {})
        lines.append((f"`{name}`: {words}", *("refused" if key in refused else "✓" for key in table["columns"])))
    return rows(head, lines)


def zoo_columns() -> str:
    """What is tried in each column."""
    return "\n".join(f"- `{key}`: {words}." for key, words in _zoo()["columns"].items())


def zoo_refusals() -> str:
    """Each sentence, with the network and the columns where it stands."""
    lines = []
    for name, refused in _zoo()["refused"].items():
        for sentence in dict.fromkeys(refused.values()):
            where = ", ".join(key for key, value in refused.items() if value == sentence)
            lines.append((f"`{name}`", where, sentence))
    return rows(("network", "column", "sentence"), lines)


TABLES: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        *(exported, methods, equations, commands, quantities, samplers, tasks, metrics),
        *(zoo, zoo_columns, zoo_refusals),
    )
}
