"""How much of the objective space a front dominates: one number for a front, exact for any number of objectives."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np

from ttq_plugin.errors import InputError

Point = Sequence[float]


def hypervolume(points: Sequence[Point], reference: float | Point = 0.0) -> float:
    """Volume of the union of the boxes between the reference and each point, all objectives maximised.

    Zitzler & Thiele (1998); computed exactly by moocore (HV3D+, HV4D+ of Guerreiro & Fonseca). The reference 0 suits
    MCC and gains: no better than chance, nothing saved. A point that does not exceed it everywhere adds nothing.

    Args:
        points: a row a trial, a column an objective; dominated and repeated rows change nothing.
        reference: the corner that a point must exceed: one number for all objectives, or one each.

    Returns:
        The volume, in the product of the objectives' units; 0 without points.

    Raises:
        InputError: a row of another length, a value that is not finite, or a reference that does not fit.
    """
    if not len(points):
        return 0.0
    lengths = sorted({len(point) for point in points})
    if len(lengths) > 1 or lengths[0] < 2:
        raise InputError(f"every point must have the same two or more objectives, got rows of lengths {lengths}.")
    rows = np.asarray(points, dtype=np.float64)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.ndim and corner.shape != rows.shape[1:]:
        raise InputError(f"the reference must have one value, or one for each of {rows.shape[1]} objectives.")
    if not (np.isfinite(rows).all() and np.isfinite(corner).all()):
        raise InputError("the points and the reference of a hypervolume must be finite numbers.")
    better = rows[(rows > corner).all(axis=1)]
    return float(moocore.hypervolume(better, ref=corner, maximise=True)) if len(better) else 0.0


def hypervolume_over_trials(points: Sequence[Point | None], reference: float | Point = 0.0) -> list[float]:
    """The hypervolume after each trial of a search: what it still gains, and whether it has stagnated.

    Args:
        points: each trial's objectives in the order of the trials; None for one that has none.
        reference: as in ``hypervolume``.

    Returns:
        A volume a trial; it never falls.
    """
    front: list[Point] = []
    volumes: list[float] = []
    for point in points:
        known = volumes[-1] if volumes else 0.0
        if point is not None and not any(_covers(other, point) for other in front):
            front = [other for other in front if not _covers(point, other)] + [point]
            # In exact arithmetic it cannot fall; in floats the sums of two fronts differ in their last bits.
            known = max(known, hypervolume(front, reference))
        volumes.append(known)
    return volumes


def _covers(one: Point, other: Point) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True))
