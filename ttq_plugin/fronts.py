"""How good a trade-off front is as one number, for everything that searches, draws or compares fronts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ttq_plugin.errors import InputError


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float] | float = 0.0) -> float:
    """The exact volume between the reference and what the points dominate (Zitzler & Thiele 1998), by moocore.

    With the default reference, scores and gains give a number in [0, 1] that compares between studies of the same
    objectives: no skill and no gain span nothing, a perfect network of no size spans 1.

    Args:
        points: objective vectors, every objective maximised, shape (points, objectives); dominated ones add nothing.
        reference: the corner that a point must exceed in every objective to count, or one number for all of them.

    Returns:
        The volume; 0.0 without a point beyond the reference.

    Raises:
        InputError: if the points differ in length, or the reference has another length.
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
        points: each trial's objective vector in the order of the trials; None for a trial that has none.
        reference: as in ``hypervolume``.

    Returns:
        A volume a trial; it never falls.
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
        one: objective vectors, every objective maximised.
        other: likewise.

    Returns:
        A share in [0, 1]; not symmetric. None when the other front is empty.
    """
    covered = sum(any(_covers(point, against) for point in one) for against in other)
    return covered / len(other) if len(other) else None


def knee(points: Sequence[Sequence[float]]) -> int:
    """The point nearest to the best value of every objective, each scaled to its range over the points.

    Args:
        points: objective vectors of a front, every objective maximised; at least one.

    Returns:
        The index of the point; of the first of them where several are as near.
    """
    columns = list(zip(*points, strict=True))
    best, span = [max(c) for c in columns], [max(c) - min(c) or 1.0 for c in columns]
    scaled = [[(b - v) / s for b, v, s in zip(best, point, span, strict=True)] for point in points]
    distances = [math.hypot(*row) for row in scaled]
    return distances.index(min(distances))


def edge(points: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """The points that are best in two objectives alone: where a projection of a front ends.

    Args:
        points: pairs, both maximised.

    Returns:
        The pairs that no other one covers, each once, by the first falling and the second rising.
    """
    best: list[Sequence[float]] = []
    for point in sorted(points, reverse=True):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def _covers(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True))
