"""Metrics by name: their functions, which direction is better, and how they are displayed.

Importing this module costs nothing: torch and scikit-learn are imported when a score is computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ttq_plugin.errors import InputError
from ttq_plugin.support.arguments import check_types
from ttq_plugin.support.names import check_name

NAME = re.compile(r"[A-Za-z_]\w*")
"""Valid names of metrics; constraints, MLflow and command lines all need a single word."""

TAKEN = re.compile(r"test_.*|.*_(fp32|confirmed)|(recall|f1|iou|dice)_.*|srqw|loss|(cr|ec|latency)_.*|bits_.*|"
                   r"mult_adds.*|latency|flash|ram|duration_seconds|seconds|seed|trial|method|notes|origin|epochs|"
                   r"task|parameters|metric|parts|parts_fp32|simulated|weights|settings|layers|kinds|energy_model|"
                   r"form|files?|batches|bytes|file_bytes|peak_memory_bytes|max_(relative_)?difference|samples|"
                   r"validation|to|path")  # fmt: skip
"""Names that reports and MLflow use for something else."""


@dataclass(frozen=True)
class Metric:
    """A metric that scores models.

    Attributes:
        name: Name of the metric, also as an objective, in MLflow (``test_<name>`` on the test split) and in reports.
        function: Function ``(outputs, targets) -> float`` of the outputs and targets of the whole split, on the CPU.
        higher: Whether a higher value is better.
        low: The smallest possible value.
        high: The largest possible value.
        title: Name in tables and pictures; by default the metric's name.
        fraction: Whether tables and pictures show it in percent.

    Raises:
        InputError: If the name is not one word, or is one that reports use for something else, or if low is not less
            than high.

    Examples:
        >>> from ttq_plugin.tasks.metrics import Metric
        >>> def worst(outputs, targets):
        ...     return float((outputs - targets).abs().max())
        >>> Metric("worst_error", worst, higher=False).better(1.0, 2.0)
        True
    """

    name: str
    function: Callable[[Any, Any], float]
    higher: bool = True
    low: float = -math.inf
    high: float = math.inf
    title: str = ""
    fraction: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise InputError(
                f"A metric's name must be one word of letters, digits and underscores, got {self.name!r}; "
                "choose one such as macro_f1."
            )
        if TAKEN.fullmatch(self.name):
            raise InputError(
                f"A metric cannot be called {self.name!r}, which reports use for something else; rename it."
            )
        if not callable(self.function):
            raise InputError(
                f"The metric {self.name} needs a function (outputs, targets) -> float, got {self.function!r}."
            )
        check_types(Metric, vars(self))
        if self.title:
            check_name("the title of a metric", self.title)
        if not self.low < self.high:
            raise InputError(
                f"low of the metric {self.name} must be less than high, got {self.low!r} and {self.high!r}."
            )

    @property
    def label(self) -> str:
        """The name in tables and pictures."""
        return self.title or self.name

    @property
    def builtin(self) -> bool:
        """Whether it is one of ``METRICS``."""
        return METRICS.get(self.name) is self

    def better(self, one: float, other: float) -> bool:
        """Whether the first value is the better one."""
        return one > other if self.higher else one < other

    def text(self, value: float | None) -> str:
        """Format a value: a fraction in percent, others with four significant digits; empty for None."""
        if value is None:
            return ""
        return f"{100 * value:.2f} %" if self.fraction else f"{value:.4g}"


def _lazily(name: str) -> Callable[[Any, Any], float]:
    """The formula of that name, imported when it is first needed."""

    def function(outputs: Any, targets: Any) -> float:
        from ttq_plugin.tasks.scoring import formulas

        return float(getattr(formulas, name)(outputs, targets))

    function.__name__ = name
    return function


def _table(*rows: tuple[str, str, bool, float, float, bool]) -> dict[str, Metric]:
    return {
        name: Metric(name, _lazily(name), higher, low, high, title, fraction)
        for name, title, higher, low, high, fraction in rows
    }


METRICS: dict[str, Metric] = _table(
    ("mcc", "MCC", True, -1, 1, True),
    ("accuracy", "accuracy", True, 0, 1, True),
    ("balanced_accuracy", "balanced accuracy", True, 0, 1, True),
    ("macro_f1", "macro F1", True, 0, 1, True),
    ("auroc", "AUROC", True, 0, 1, True),
    ("average_precision", "average precision", True, 0, 1, True),
    ("rmse", "RMSE", False, 0, math.inf, False),
    ("mae", "MAE", False, 0, math.inf, False),
    ("r2", "R2", True, -math.inf, 1, False),
    ("dice", "Dice coefficient", True, 0, 1, True),
    ("iou", "IoU", True, 0, 1, True),
)
"""The metrics that a task may name, computed by scikit-learn; ``ttq_plugin.tasks.scoring.formulas`` defines them."""


def get_metric(metric: str | Metric) -> Metric:
    """Look up a metric by its name.

    Args:
        metric: A key of ``METRICS``, or a metric of the user's own.

    Returns:
        The metric.

    Raises:
        InputError: If there is no such metric, or a metric of the user's own has the name of a built-in one.
    """
    if isinstance(metric, Metric):
        if metric.name in METRICS and not metric.builtin:
            raise InputError(f"The metric {metric.name!r} is built in; give one of your own another name.")
        return metric
    if not isinstance(metric, str) or metric not in METRICS:
        raise InputError(
            f"metric must be one of {', '.join(METRICS)}, or a ttq_plugin.tasks.metrics.Metric, got {metric!r}."
        )
    return METRICS[metric]
