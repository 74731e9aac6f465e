"""The papers' published results and training settings, from ``published.json``; in percent, as printed there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any

from ttq_plugin.errors import InputError
from ttq_plugin.methods import LSQ
from ttq_plugin.tasks.task import Recipe

Number = tuple[float, float]
"""Mean and standard deviation."""

ALPHA_IS_OURS = "pttq"
"""The method whose alpha has other units here, a slope per standard deviation: its default stays."""


@dataclass(frozen=True)
class Published:
    """One task of the papers.

    Attributes:
        name: Name in the papers' tables, such as ``esr-2dcnn``.
        task: The built-in task with the papers' split.
        layers: The quantised layers.
        recipe: Recipe of the full-precision model, batch size and schedule as read from the papers.
        settings: Numbers of each method's training.
        main: Method -> column -> mean and standard deviation; likewise the next two.
        ablations: The ablations of pTTQ.
        normalization: ATTQ with (``yes``) and without (``no``) dividing a layer by max|w|.
        grid_best_mcc: Best mean MCC of aTTQ's t_min x t_max grid, or None.
        warmup: Steps in which the schedule ``noam`` of a compression rises.
    """

    name: str
    task: str
    layers: tuple[str, ...]
    recipe: Recipe
    settings: dict[str, dict[str, float]]
    main: dict[str, dict[str, Number | None]]
    ablations: dict[str, dict[str, Number | None]]
    normalization: dict[str, dict[str, Number | None]]
    grid_best_mcc: float | None
    warmup: int = field(default=4000)

    def keywords(self, method: str) -> dict[str, Any]:
        """What ``Settings`` gets for a method's published training.

        A learning rate that is not published is the weights' own. Ablations train as pTTQ does. NNI's LSQ, which no
        paper reports, gets aTTQ's learning rate and pTTQ's epochs.

        Args:
            method: A key of ``METHODS``, or ``lsq-int2``.

        Returns:
            Keywords; ``epochs`` in full.
        """
        if method == LSQ:
            return {"method": LSQ, "lr": self.settings["attq"]["lr"], "epochs": int(self.settings["pttq"]["epochs"])}
        known = dict(self.settings["pttq" if method.startswith("pttq") else method])
        rate = known["lr"]
        known = {"lr_scale": rate, "lr_threshold": rate} | known
        alpha = known.pop("alpha", None)
        if method == "pttq-released" and alpha is not None:
            known["alpha"] = alpha
        if method == "pttq-symmetric":
            known["t"] = known.pop("t_max")
            del known["t_min"]
        return {"method": method, **known, "epochs": int(known["epochs"])}

    def shortened(self, recipe: Recipe, scale: float) -> Recipe:
        """The recipe with its epochs and warm-up multiplied by ``scale``."""
        return replace(recipe, epochs=shorten(recipe.epochs, scale), warmup=shorten(recipe.warmup, scale))


def shorten(number: int, scale: float) -> int:
    """A number of epochs or steps times ``scale``, at least 1."""
    return max(1, round(number * scale))


@cache
def _file() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(resources.files(__package__).joinpath("published.json").read_text())
    return loaded


def source() -> str:
    """Which papers and tables."""
    return str(_file()["source"])


def repetitions() -> int:
    """How often the papers repeated each training."""
    return int(_file()["repetitions"])


def grid_values() -> tuple[float, ...]:
    """The values of t_min and of t_max in the papers' grid."""
    return tuple(_file()["grid_t"])


def names() -> tuple[str, ...]:
    """The papers' tasks."""
    return tuple(_file()["tasks"])


def published(name: str) -> Published:
    """The papers' task of that name; see ``Published``.

    Args:
        name: One of ``names()``.

    Returns:
        What is published about it.

    Raises:
        InputError: If there is no such task; the message lists the known ones.
    """
    if name not in names():
        raise InputError(f"the papers report {', '.join(names())}, got {name!r}.")
    entry = _file()["tasks"][name]
    return Published(
        name=name,
        task=entry["task"],
        layers=tuple(entry["layers"]),
        recipe=Recipe(**entry["recipe"]),
        settings=entry["settings"],
        main=_numbers(entry["main"]),
        ablations=_numbers(entry["ablations"]),
        normalization=_numbers(entry["normalization"]),
        grid_best_mcc=entry["grid_best_mcc"],
        warmup=entry.get("quantised_warmup", 4000),
    )


def _numbers(rows: dict[str, dict[str, list[float] | None]]) -> dict[str, dict[str, Number | None]]:
    return {
        row: {column: None if value is None else (value[0], value[1]) for column, value in columns.items()}
        for row, columns in rows.items()
    }
