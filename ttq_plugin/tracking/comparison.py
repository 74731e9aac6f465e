"""Compares the fronts of several studies in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from ttq_plugin.fronts import coverage, hypervolume, is_higher, upward, upward_vector
from ttq_plugin.tracking.records import TrialRecord, front, natural_vector
from ttq_plugin.tracking.words import is_fraction

if TYPE_CHECKING:
    from ttq_plugin.statistics.resampling import Interval

_WAYS = (0.01, 0.02, 0.05)


@dataclass(frozen=True)
class Comparison:
    """The results of several studies in the same objectives; each number comes from one search.

    Attributes:
        objectives: The metrics that all of them optimise.
        trials: Study -> complete trials.
        fronts: Study -> its front's objectives, natural values.
        hypervolumes: Study -> volume from the corner where every objective is 0.
        together: The same of all fronts together.
        coverages: Study -> other study -> share of the other's front that it weakly dominates.
        attainment: Floor of the score -> study -> objective -> best value among trials that reach that floor; None
            where there is none.
        score: The task's metric.
        tests: Study -> its most accurate member on validation data, and what its test says; studies that were not
            tested are left out.
        proven: Study -> of its members that are proven not inferior to full precision, the one that is best in the
            first objective besides the score; None if none is. Empty if nothing was tested.
        margin: The largest loss on test data that would not matter, in the metric's unit; None: no test.
    """

    objectives: tuple[str, ...]
    trials: dict[str, int]
    fronts: dict[str, list[tuple[float, ...]]]
    hypervolumes: dict[str, float]
    together: float
    coverages: dict[str, dict[str, float | None]]
    attainment: dict[float, dict[str, dict[str, float | None]]]
    score: str = "mcc"
    tests: dict[str, MemberOnTest] = field(default_factory=dict)
    proven: dict[str, MemberOnTest | None] = field(default_factory=dict)
    margin: float | None = None


@dataclass(frozen=True)
class MemberOnTest:
    """A front member with its score on test data.

    Attributes:
        trial: Its number.
        score: Score of the test split.
        low: Lower end of the score's 95 % interval; None where it is not known, likewise the next.
        high: Upper end.
        change: The change from full precision on the same samples, with its interval.
        p: p-value of "worse than full precision by the margin or more", corrected for all members of all studies that
            are compared (Holm); None where nothing was tested.
        best: Value of the first objective besides the score.
        again: Mean change from full precision on validation data over other seeds, by the corrected resampled t-test;
            None where `--confirm` did not train it again.
    """

    trial: int
    score: float
    low: float | None
    high: float | None
    change: Interval | None
    p: float | None
    best: float
    again: Mapping[str, float | int | bool] | None = None


def compare_fronts(
    studies: Mapping[str, Sequence[TrialRecord]],
    objectives: Sequence[str],
    floors: Sequence[float] = (),
    score: str = "mcc",
) -> Comparison:
    """Compare fronts.

    Args:
        studies: Name -> finished trials; each has at least one complete trial.
        objectives: Two or more metrics that all of them have.
        floors: The floors of the task's metric on validation data; by default the best one found less 1, 2 and 5
            points, and of a metric that is no fraction 1, 2 and 5 % worse than the best.
        score: The task's metric.

    Returns:
        The comparison.
    """
    members, points, able = {}, {}, {}
    for name, records in studies.items():
        numbers = front(records, objectives)
        vectors = {record.number: natural_vector(record, objectives) for record in records}
        members[name] = [vector for number, vector in vectors.items() if vector is not None and number in numbers]
        points[name] = [upward_vector(objectives, vector) for vector in members[name]]
        able[name] = [
            record.metrics for record in records if vectors[record.number] is not None and not record.violated
        ]
    best = max((metrics[score] for own in able.values() for metrics in own), key=partial(upward, score))
    others = [name for name in objectives if name != score]

    def attained(own: list[dict[str, float]], floor: float) -> dict[str, float | None]:
        reached = [metrics for metrics in own if upward(score, metrics[score]) >= upward(score, floor)]
        return {
            name: max((metrics[name] for metrics in reached), key=partial(upward, name), default=None)
            for name in others
        }

    return Comparison(
        tuple(objectives),
        {name: len(own) for name, own in able.items()},
        members,
        {name: hypervolume(own) for name, own in points.items()},
        hypervolume([point for own in points.values() for point in own]),
        {a: {b: coverage(points[a], points[b]) for b in points if b != a} for a in points},
        {
            floor: {name: attained(own, floor) for name, own in able.items()}
            for floor in floors or [_worse(score, best, way) for way in _WAYS]
        },
        score,
    )


def with_tests(
    comparison: Comparison,
    studies: Mapping[str, Sequence[TrialRecord]],
    evidence: Mapping[str, Mapping[int, Mapping[str, float]]],
    changes: Mapping[str, Mapping[int, Interval]],
    margin: float | None,
    again: Mapping[str, Mapping[int, Mapping[str, float | int | bool]]] | None = None,
) -> Comparison:
    """Add what the fronts' tests say; all members of all studies are tested together.

    Args:
        comparison: The comparison of the fronts.
        studies: The studies, as for ``compare_fronts``.
        evidence: Study -> front member -> ``test_<score>`` and the ends of its interval.
        changes: Study -> front member -> its change from full precision.
        margin: The largest loss that would not matter, in the metric's unit; None: nothing is proven.
        again: Study -> front member -> its mean change over other seeds.

    Returns:
        The comparison with ``tests``, ``proven`` and ``margin``.

    Raises:
        InputError: For a margin that is not above 0.
    """  # noqa: DOC502 - raised by what it calls
    from ttq_plugin.statistics.noninferiority import SIGNIFICANCE, verdicts  # torch comes with them

    score, other = comparison.score, next(name for name in comparison.objectives if name != comparison.score)
    keys = {(name, number): found for name, own in changes.items() for number, found in own.items()}
    judged = {} if margin is None else verdicts(keys, margin, higher=is_higher(score))
    tests: dict[str, MemberOnTest] = {}
    proven: dict[str, MemberOnTest | None] = {}
    for name, records in studies.items():
        numbers_on_front = front(records, comparison.objectives)
        members = {r.number: r for r in records if r.number in numbers_on_front}
        known = {number: found for number, found in evidence.get(name, {}).items() if number in members}
        if not known:
            continue
        found = {
            number: MemberOnTest(
                number,
                numbers[f"test_{score}"],
                numbers.get(f"test_{score}_low"),
                numbers.get(f"test_{score}_high"),
                changes.get(name, {}).get(number),
                judged[name, number].adjusted if (name, number) in judged else None,
                members[number].metrics[other],
                (again or {}).get(name, {}).get(number),
            )
            for number, numbers in known.items()
        }
        tests[name] = found[max(found, key=lambda number: upward(score, members[number].metrics[score]))]
        if any(member.p is not None for member in found.values()):
            sure = [member for member in found.values() if member.p is not None and member.p <= SIGNIFICANCE]
            proven[name] = max(sure, key=lambda member: upward(other, member.best), default=None)
    return replace(comparison, tests=tests, proven=proven, margin=margin)


def _worse(score: str, best: float, way: float) -> float:
    """A value that much worse than the best one: points of a fraction, a share of any other."""
    if is_fraction(score):
        return round(best - way if is_higher(score) else best + way, 4)
    return float(f"{best - way * abs(best) if is_higher(score) else best + way * abs(best):.5g}")
