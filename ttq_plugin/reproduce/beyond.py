"""Goals beyond the papers, and the settings chosen for them on validation data, from ``beyond.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.task import Recipe


@dataclass(frozen=True)
class Goal:
    """One row of the table ``beyond``; fractions in [0, 1].

    Attributes:
        row: Its label.
        srqw: Share of zeros to reach, mean over the repetitions.
        mcc_change: Change in test MCC from full precision, to reach.
        mcc: Test MCC to reach as well, or None.
        settings: Settings, as in a ``Cell``.
    """

    row: str
    srqw: float
    mcc_change: float
    mcc: float | None
    settings: dict[str, Any]


def goals(name: str) -> tuple[Goal, ...]:
    """The goals of a papers' task.

    Args:
        name: Name in the papers' tables.

    Returns:
        At least one.

    Raises:
        InputError: If none is set.
    """  # noqa: DOC502 - raised by what it calls
    return tuple(Goal(**entry) for entry in _entry(name)["goals"])


def recipe(name: str, own: Recipe) -> Recipe:
    """The training recipe of the full-precision model that the goals are compared with.

    Args:
        name: Name in the papers' tables.
        own: The task's recipe.

    Returns:
        That recipe with what was found better on validation data.
    """
    return replace(own, **_entry(name)["recipe"])


def refits(name: str) -> bool:
    """Whether the final trainings also use the validation split, with the settings that were chosen on it.

    Args:
        name: Name in the papers' tables.

    Returns:
        True if the papers train on everything except the test split.
    """
    return bool(_entry(name).get("refit", False))


def _entry(name: str) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(resources.files(__package__).joinpath("beyond.json").read_text())
    if name not in known:
        raise InputError(f"goals beyond the papers are set for {', '.join(known)}, got {name!r}.")
    return dict(known[name])
