"""How good a trade-off front is as one number, for everything that searches, draws or compares fronts."""

from __future__ import annotations

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
