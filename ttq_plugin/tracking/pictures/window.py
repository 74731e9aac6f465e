"""What a picture of a front has room for: the neighbourhood of full precision, where people choose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ttq_plugin.fronts import is_higher, upward
from ttq_plugin.tracking.records import TrialRecord, natural_vector, objective_vector
from ttq_plugin.tracking.words import is_fraction

MARGINS = (0.1, 0.2, 0.4)
"""How far below full precision is still near: points of a fraction, a share of any other score."""

_ROOM = 0.25
"""Margin on each side of the members, as a share of their span."""

Place = tuple[float, float]
Limits = tuple[float, float]


def far_off(
    records: Sequence[TrialRecord],
    members: set[int],
    objectives: Sequence[str],
    score: str,
    full_precision: float | None = None,
) -> set[int]:
    """The complete trials whose score is so far below full precision that nobody would choose them.

    The least margin of `MARGINS` counts that leaves half of the front near; where none does, nothing is far off.

    Args:
        records: The trials.
        members: The numbers of those on the front.
        objectives: What spans the front.
        score: The task's metric.
        full_precision: The full-precision model's score; None for the best trial's.

    Returns:
        The numbers of the trials.
    """
    scores = {
        record.number: record.metrics[score]
        for record in records
        if score in record.metrics and objective_vector(record, objectives) is not None
    }
    return far_scores(scores, members, score, full_precision)


def far_scores(
    scores: Mapping[int, float], members: set[int], score: str, full_precision: float | None = None
) -> set[int]:
    """The same of scores alone.

    Args:
        scores: Scores by number.
        members: The numbers of those on a front.
        score: The task's metric.
        full_precision: The full-precision model's score; None for the best one.

    Returns:
        The numbers of those that are far off.
    """
    if not scores:
        return set()
    best = max(scores.values(), key=lambda value: upward(score, value))
    whole = best if full_precision is None else full_precision
    for margin in MARGINS:
        way = margin if is_fraction(score) else margin * abs(whole)
        least = upward(score, whole - way if is_higher(score) else whole + way)
        far = {number for number, value in scores.items() if upward(score, value) < least}
        if 2 * len(far & members) <= len(members):
            return far
    return set()


@dataclass(frozen=True)
class Window:
    """What one panel shows.

    Attributes:
        limits: The limits of both axes, None where the data's own serve.
        outside: The numbers of the points that lie beyond them.
    """

    limits: tuple[Limits | None, Limits | None]
    outside: frozenset[int]

    def clipped(self, place: Place) -> Place:
        """A point, or where it would leave the panel."""
        x, y = (
            value if limits is None else min(max(value, limits[0]), limits[1])
            for value, limits in zip(place, self.limits, strict=True)
        )
        return x, y


def window(
    points: Mapping[int, Place], members: set[int], far: set[int], lines: tuple[float | None, float | None]
) -> Window:
    """Limits within which the members near full precision take at least half of each axis.

    Args:
        points: What is drawn, by number.
        members: The numbers of those on the front.
        far: The numbers of those that are far off.
        lines: Full precision on either axis, None where it is not known.

    Returns:
        The panel's limits, and who lies beyond them.
    """
    near = {number: place for number, place in points.items() if number not in far}
    limits = []
    for axis, line in enumerate(lines):
        inner = [near[number][axis] for number in members & near.keys()]
        limits.append(_limits(inner, [place[axis] for place in near.values()], line))
    outside = frozenset(
        number
        for number, place in points.items()
        if any(_beyond(v, ends) for v, ends in zip(place, limits, strict=True))
    )
    return Window((limits[0], limits[1]), outside)


def _limits(inner: Sequence[float], values: Iterable[float], line: float | None) -> Limits | None:
    """The members' span with room beside it, as far as there is anything to show there."""
    held = [*inner, *([] if line is None else [line])]
    if len(held) < 2 or not inner or max(held) == min(held):
        return None
    least, most = min(held), max(held)
    span = most - least
    values = [value for value in values if least - _ROOM * span <= value <= most + _ROOM * span]
    low, high = min([least, *values]), max([most, *values])
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


def _beyond(value: float, limits: Limits | None) -> bool:
    return limits is not None and not limits[0] <= value <= limits[1]


def beyond(
    records: Sequence[TrialRecord],
    members: set[int],
    objectives: Sequence[str],
    score: str,
    full_precision: float | None = None,
) -> set[int]:
    """The trials that at least one panel has no room for, for charts that choose their limits by themselves.

    Args:
        records: The trials.
        members: The numbers of those on the front.
        objectives: What spans the front.
        score: The task's metric.
        full_precision: The full-precision model's score, where it is known.

    Returns:
        The numbers of those far below full precision, and of dominated ones far from the front.
    """
    far = far_off(records, members, objectives, score, full_precision)
    vectors = {record.number: natural_vector(record, objectives) for record in records}
    found = set(far)
    for x, y in combinations(range(len(objectives)), 2):
        flat = {number: (vector[x], vector[y]) for number, vector in vectors.items() if vector is not None}
        lines = [full_precision if objectives[axis] == score else None for axis in (x, y)]
        found |= window(flat, members, far, (lines[0], lines[1])).outside - members
    return found


def listed(points: Mapping[int, Place], members: set[int], outside: frozenset[int], most: int = 64) -> str:
    """Who lies beyond a panel's limits, for its edge: members by number and place, the others by their count.

    Args:
        points: What is drawn, by number.
        members: The numbers of those on the front.
        outside: The numbers of those that lie beyond.
        most: The largest number of characters: a panel is no wider. As many members are named as fit.

    Returns:
        Such as "outside: 22 at 24.4, 90.2; 7 dominated"; empty for nobody.
    """
    known = sorted(outside & members, key=lambda number: points[number])
    names = [f"{number} at {points[number][0]:.3g}, {points[number][1]:.3g}" for number in known]
    rest = len(outside - members)
    dominated = [f"{rest} dominated"] if rest else []
    for named in range(len(names), -1, -1):
        left = len(names) - named
        others = [f"{left} {'more ' if named else ''}member{'s' if left > 1 else ''}"] if left else []
        words = "; ".join([*names[:named], *others, *dominated])
        if len(f"outside: {words}") <= most:
            break
    return f"outside: {words}" if words else ""
