"""The parts of a score by name, such as ``recall_2``: their labels, and when a class is lost.

Importing this module costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

NATURAL = frozenset({"rmse", "mae", "r2"})
"""Parts of a score that are no fractions."""

LOST = 0.1
"""A class is lost where its recall falls below this share of the full-precision model's."""


TERNARY = "ternary"
"""What the name of a branch's share of ternary weights begins with."""

ATTENTION = "attention"
"""What the name of a class's mean attention begins with; see ``ttq_plugin.tasks.scoring.branches``."""


def part_label(name: str, classes: Sequence[str] = ()) -> str:
    """The label of a part of a score, such as ``recall_2``.

    Args:
        name: Name of the part, see ``ttq_plugin.tasks.scoring.scores.parts``.
        classes: What the classes are called, by index.

    Returns:
        Such as "recall of walking", or "recall of 2" where the classes have no names.
    """
    kind, _, index = name.rpartition("_")
    if kind == TERNARY:
        return f"{TERNARY} share of the branch {index}"
    if not kind or not index.isdigit():
        return name.replace("_", " ")
    which = classes[int(index)] if int(index) < len(classes) else index
    if kind == ATTENTION:
        return f"{ATTENTION} on the first branch, class {which}"
    return f"{kind.replace('_', ' ')} of {which}"


def part_text(name: str, value: float | None) -> str:
    """Format a part of a score: fractions in percent; empty for None."""
    if value is None:
        return ""
    natural = name in NATURAL or name.rpartition("_")[0] in NATURAL
    return f"{value:.4g}" if natural else f"{100 * value:.2f} %"


def is_lost(name: str, before: float | None, after: float) -> bool:
    """Whether a class that the full-precision model finds is lost.

    Args:
        name: Name of the part; only recalls and overlaps of one class can be lost.
        before: The full-precision model's.
        after: The compressed model's.

    Returns:
        Whether less than a tenth is left.
    """
    kind, _, index = name.rpartition("_")
    return kind in {"recall", "dice", "iou"} and index.isdigit() and bool(before) and after < LOST * (before or 0.0)
