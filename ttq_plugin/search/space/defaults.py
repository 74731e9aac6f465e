"""The default space of a task without a space file, derived from the task's recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from ttq_plugin.errors import InputError
from ttq_plugin.methods import LR_THRESHOLD, METHODS
from ttq_plugin.search.space.file import TRIED_FIRST
from ttq_plugin.search.space.scored import entry

if TYPE_CHECKING:
    from ttq_plugin.tasks.task import Task

LEAST_EPOCHS, MOST_EPOCHS = 3, 30
"""The bounds of the longest training, which is otherwise a third of the recipe's epochs."""

FAR = 0.2
"""How far below full precision a trial's score may be to be useful; for metrics that are shares, at most 1."""

SEARCHED = "pttq"
"""The method that a default space searches unless others are asked for."""

PRESCRIBED = ("pttq", "attq", "ttq")
"""The methods for which it searches a share of zeros in place of thresholds."""

FIRST_ZEROS = (0.6, 0.8, 0.92)
"""The shares of zeros that it tries first."""

PAPERS: list[dict[str, Any]] = [
    {"method": "pttq", "t_min": 1.0, "t_max": 1.0, "alpha": 10.0},
    {"method": "attq", "t_min": -1.0, "t_max": 0.5},
    {"method": "ttq", "t": 0.05},
]
"""The published thresholds, and a slope in the middle of its range; learning rates and epochs are drawn."""


def default_space(task: Task) -> dict[str, Any]:
    """The default space of a task, in the form of a space file.

    Args:
        task: The task whose recipe and metric it follows.

    Returns:
        The keys and values of a space file: `pttq` with a share of zeros unless other methods are asked for, learning
        rates from a tenth to three times the recipe's, at most a third of its epochs.
    """
    longest = min(MOST_EPOCHS, max(LEAST_EPOCHS, round(task.recipe.epochs / 3)))
    metric = task.score
    return {
        "task": task.name,
        "metric": metric.name if metric.builtin else entry(metric),
        "objectives": [metric.name, "cr_gain_total", "ec_gain_total"],
        "trials": 40,
        "stop_early": {"collapsed": True, "dominated": True}
        | ({"far_below": FAR} if entry(metric)["fraction"] else {}),
        "parameters": {
            "lr": _around(task.recipe.lr),
            "lr_scale": {"low": 1e-4, "high": 1e-2, "log": True},
            "lr_threshold": {"low": 1e-5, "high": 1e-3, "log": True},
            "epochs": {"low": max(1, longest // 3), "high": longest},
            "share": {"low": 0.3, "high": 1.0},
        },
        "only": [SEARCHED],
        "methods": _ranges(),
        "first": [
            {"method": SEARCHED, "zeros": zeros, "alpha": 10.0, "lr": _rounded(task.recipe.lr * 0.3), "lr_scale": 1e-3}
            | {"lr_threshold": LR_THRESHOLD, "epochs": longest, "share": 1.0}
            for zeros in FIRST_ZEROS
        ],
    }


def thresholds_instead(space: Mapping[str, Any]) -> dict[str, Any]:
    """The changes by which a space searches the initial thresholds of each method that it gives a share of zeros.

    Args:
        space: The keys and values of a space file.

    Returns:
        Its `methods` with the default ranges of thresholds, and what is tried first: published settings in the place
        of shares.

    Raises:
        InputError: If the space gives no method a share of zeros.
    """
    methods: dict[str, dict[str, Any]] = dict(space["methods"])
    prescribed = [name for name, numbers in methods.items() if "zeros" in numbers]
    if not prescribed:
        raise InputError(
            "--thresholds needs a space that gives a method a share of zeros, got one without; leave it out."
        )
    for name in prescribed:
        methods[name] = {number.name: methods[name].get(number.name, number.range) for number in METHODS[name].numbers}
    kept = {key: [entry for entry in space.get(key) or () if entry["method"] not in prescribed] for key in TRIED_FIRST}
    published = [entry for entry in PAPERS if entry["method"] in prescribed]
    return {"methods": methods, **kept, "paper": published + kept["paper"]}


def _ranges() -> dict[str, dict[str, Any]]:
    """Every method whose default ranges suit any network, with those ranges."""
    names = (*PRESCRIBED, *(name for name in METHODS if name not in PRESCRIBED))
    rows = (METHODS[name] for name in names)
    return {
        row.name: {name: row.number(name).range for name in row.names_with(zeros=row.name in PRESCRIBED)}
        for row in rows
        if row.universal
    }


def default_text(task: Task) -> str:
    """The same as the text of a space file, to begin one of one's own with."""
    head = f"# The default space of {task.name}, drawn from its recipe.\n"
    return head + yaml.dump(default_space(task), Dumper=_Plain, sort_keys=False, default_flow_style=None, width=120)


class _Plain(yaml.SafeDumper):
    """Without references where two methods share a range."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _around(lr: float) -> dict[str, Any]:
    """Mostly below it, because trained weights are gone on with; two digits."""
    return {"low": _rounded(lr * 0.1), "high": _rounded(lr * 3), "log": True}


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")
