"""How good a trade-off front is as one number, for everything that searches, draws or compares fronts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ttq_plugin.errors import InputError


class Objective(str):
    """An objective's name, with its direction and how it is displayed.

    Everything that searches, ranks or compares fronts maximises ``upward`` values; records, tables, MLflow and pictures
    hold the natural ones. A plain string is the name of an objective that is better when higher.

    Args:
        name: The name.
        higher: Whether a higher value is better.
        label: Its label; empty for the default of the name.
        fraction: Whether it is displayed in percent; None for the default of the name.
    """

    higher: bool
    label: str
    fraction: bool | None

    def __new__(cls, name: str, higher: bool = True, label: str = "", fraction: bool | None = None) -> Objective:
        """Create the string with its attributes."""
        made = super().__new__(cls, name)
        made.higher, made.label, made.fraction = higher, label, fraction
        return made

    def __reduce__(self) -> tuple[type[Objective], tuple[str, bool, str, bool | None]]:
        return Objective, (str(self), self.higher, self.label, self.fraction)

    @property
    def on_test(self) -> Objective:
        """The same quantity on the test split."""
        return Objective(f"test_{self}", self.higher, self.label, self.fraction)


def is_higher(name: str) -> bool:
    """Whether a higher value of an objective is better."""
    return name.higher if isinstance(name, Objective) else True


def upward(name: str, value: float) -> float:
    """A value of an objective as a number of which more is better: the only place that flips a direction.

    Args:
        name: The objective, an ``Objective`` where lower is better.
        value: Its natural value.

    Returns:
        The value where higher is better. Else a strictly decreasing function of it, which for errors lies in (0, 1]:
        no error is 1, and the hypervolume's corner at 0 is an infinite one.
    """
    if is_higher(name):
        return value
    return 1 / (1 + value) if value >= 0 else 1 - value


def upward_vector(objectives: Sequence[str], values: Sequence[float]) -> tuple[float, ...]:
    """The values of several objectives as ``upward`` numbers."""
    return tuple(upward(name, value) for name, value in zip(objectives, values, strict=True))


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float] | float = 0.0) -> float:
    """The exact volume between the reference and what the points dominate (Zitzler & Thiele 1998), by moocore.

    With the default reference, scores and gains give a number in [0, 1] that compares between studies of the same
    objectives: no skill and no gain span nothing, a perfect network of no size spans 1.

    Args:
        points: Objective vectors, every objective maximised, shape (points, objectives); dominated ones add nothing.
        reference: The corner that a point must exceed in every objective to count, or one number for all of them.

    Returns:
        The volume; 0.0 without a point beyond the reference.

    Raises:
        InputError: If the points differ in length, or the reference has another length.
    """
    if not points:
        return 0.0
    dimensions = len(points[0])
    corner = [float(reference)] * dimensions if isinstance(reference, (int, float)) else [float(r) for r in reference]
    if any(len(point) != dimensions for point in points) or len(corner) != dimensions:
        lengths = sorted({len(point) for point in points})
        raise InputError(f"points and reference must have one length, got {lengths} and {len(corner)}.")
    inside = [point for point in points if all(value > low for value, low in zip(point, corner, strict=True))]
    if not inside:
        return 0.0
    if dimensions == 1:
        return float(max(point[0] for point in inside) - corner[0])
    import moocore

    return float(moocore.hypervolume(inside, ref=corner, maximise=True))


def hypervolume_over_trials(
    points: Sequence[Sequence[float] | None], reference: Sequence[float] | float = 0.0
) -> list[float]:
    """The hypervolume after each trial of a search: what it still gains, and whether it has stagnated.

    Args:
        points: Each trial's objective vector in the order of the trials; None for a trial that has none.
        reference: The reference point, as in ``hypervolume``.

    Returns:
        A volume for each trial; it never falls.
    """
    front: list[Sequence[float]] = []
    volumes: list[float] = []
    for point in points:
        known = volumes[-1] if volumes else 0.0
        if point is not None and not any(_covers(other, point) for other in front):
            front = [other for other in front if not _covers(point, other)] + [point]
            # It cannot fall; the sums over two fronts may differ in their last bits.
            known = max(known, hypervolume(front, reference))
        volumes.append(known)
    return volumes


def coverage(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float | None:
    """The share of the other front that one front weakly dominates (C-metric, Zitzler & Thiele 1998).

    Args:
        one: Objective vectors, every objective maximised.
        other: Another point.

    Returns:
        A share in [0, 1]; not symmetric. None when the other front is empty.
    """
    covered = sum(any(_covers(point, against) for point in one) for against in other)
    return covered / len(other) if len(other) else None


def knee(points: Sequence[Sequence[float]]) -> int:
    """The point nearest to the best value of every objective, each scaled to its range over the points.

    Args:
        points: Objective vectors of a front, every objective maximised; at least one.

    Returns:
        The index of the point; of the first of them where several are as near.
    """
    columns = list(zip(*points, strict=True))
    best, span = [max(c) for c in columns], [max(c) - min(c) or 1.0 for c in columns]
    scaled = [[(b - v) / s for b, v, s in zip(best, point, span, strict=True)] for point in points]
    distances = [math.hypot(*row) for row in scaled]
    return distances.index(min(distances))


def edge(points: Sequence[Sequence[float]], objectives: Sequence[str] = ("", "")) -> list[Sequence[float]]:
    """The points that are best in two objectives alone: where a projection of a front ends.

    Args:
        points: Pairs of natural values.
        objectives: The two objectives; both are maximised unless an ``Objective`` says otherwise.

    Returns:
        The pairs that no other one covers, each once, the first objective getting worse and the second better.
    """
    best: list[tuple[Sequence[float], Sequence[float]]] = []
    for turned, point in sorted(((upward_vector(objectives, point), point) for point in points), reverse=True):
        if not best or turned[1] > best[-1][0][1]:
            best.append((turned, point))
    return [point for _, point in best]


def _covers(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True))
