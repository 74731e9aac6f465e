"""The space of a task that has no space file: drawn from the task's own recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from ttq_plugin.methods import METHODS
from ttq_plugin.search.space.scored import entry

if TYPE_CHECKING:
    from ttq_plugin.tasks.task import Task

LEAST_EPOCHS, MOST_EPOCHS = 3, 30
"""The bounds of the longest training, which is otherwise a third of the recipe's epochs."""

FAR = 0.2
"""A trial whose score is this much worse than full precision's helps nobody; of metrics that are shares, at most 1."""

SEARCHED = ("pttq", "attq", "ttq")
"""The methods that a default space searches unless others are asked for."""

PAPERS: list[dict[str, Any]] = [
    {"method": "pttq", "t_min": 1.0, "t_max": 1.0, "alpha": 10.0},
    {"method": "attq", "t_min": -1.0, "t_max": 0.5},
    {"method": "ttq", "t": 0.05},
]
"""The published thresholds, and a slope in the middle of its range; learning rates and epochs are drawn."""


def default_space(task: Task) -> dict[str, Any]:
    """A space for a task, as a file would say it.

    Args:
        task: The task whose recipe and metric it follows.

    Returns:
        The keys and values of a space file: methods `pttq`, `attq` and `ttq` unless others are asked for, learning
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
            "lr_threshold": {"low": 1e-5, "high": 1e-2, "log": True},
            "epochs": {"low": max(1, longest // 3), "high": longest},
            "share": {"low": 0.3, "high": 1.0},
        },
        "only": list(SEARCHED),
        "methods": _ranges(),
        "paper": PAPERS,
    }


def _ranges() -> dict[str, dict[str, Any]]:
    """Every method whose default ranges suit any network, with those ranges."""
    names = (*SEARCHED, *(name for name in METHODS if name not in SEARCHED))
    rows = (METHODS[name] for name in names)
    return {row.name: {number.name: number.range for number in row.numbers} for row in rows if row.universal}


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
    low, high = (float(f"{lr * factor:.2g}") for factor in (0.1, 3))
    return {"low": low, "high": high, "log": True}
