"""Several studies' fronts side by side: the numbers, and one run in MLflow that holds them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from urllib.parse import quote

from ttq_plugin.fronts import coverage, hypervolume, is_higher, upward, upward_vector
from ttq_plugin.support.names import in_markdown, metric_key
from ttq_plugin.tracking.pictures.comparison import plot_fronts
from ttq_plugin.tracking.records import TrialRecord, front, natural_vector
from ttq_plugin.tracking.single import single_run
from ttq_plugin.tracking.store import Store
from ttq_plugin.tracking.words import for_text, is_fraction, label_of, written

EXPERIMENT = "comparisons"
PICTURE = "fronts.png"
_WAYS = (0.01, 0.02, 0.05)


@dataclass(frozen=True)
class Comparison:
    """What several studies reached in the same objectives; every number is of one search each.

    Attributes:
        objectives: the metrics that all of them optimise.
        trials: study -> complete trials.
        fronts: study -> its front's objectives, natural values.
        hypervolumes: study -> volume from the corner where every objective is 0.
        together: the same of all fronts together.
        coverages: study -> other study -> share of the other's front that it weakly dominates.
        attainment: floor of the score -> study -> objective -> best value among trials that reach that floor; None
            where there is none.
        score: the task's metric.
    """

    objectives: tuple[str, ...]
    trials: dict[str, int]
    fronts: dict[str, list[tuple[float, ...]]]
    hypervolumes: dict[str, float]
    together: float
    coverages: dict[str, dict[str, float | None]]
    attainment: dict[float, dict[str, dict[str, float | None]]]
    score: str = "mcc"


def compare_fronts(
    studies: Mapping[str, Sequence[TrialRecord]],
    objectives: Sequence[str],
    floors: Sequence[float] = (),
    score: str = "mcc",
) -> Comparison:
    """Compare fronts.

    Args:
        studies: name -> finished trials; each has at least one complete trial.
        objectives: two or more metrics that all of them have.
        floors: of the task's metric on validation data; by default the best one found less 1, 2 and 5 points, and of a
            metric that is no fraction 1, 2 and 5 % worse than the best.
        score: the task's metric.

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


def _worse(score: str, best: float, way: float) -> float:
    """A value that much worse than the best one: points of a fraction, a share of any other."""
    if is_fraction(score):
        return round(best - way if is_higher(score) else best + way, 4)
    return float(f"{best - way * abs(best) if is_higher(score) else best + way * abs(best):.5g}")


def at_floor(comparison: Comparison, metric: str, floor: float) -> str:
    """What a row of the attainment tells, in plain characters.

    Args:
        comparison: whose row it is.
        metric: the objective.
        floor: of the score.

    Returns:
        Such as "compression gain CR_G^T (%) at MCC >= 90 %".
    """
    sign = ">=" if is_higher(comparison.score) else "<="
    value = f"{100 * floor:.4g} %" if is_fraction(comparison.score) else f"{floor:.4g}"
    return f"{for_text(metric)} at {label_of(comparison.score)} {sign} {value}"


def record_comparison(store: Store, comparison: Comparison, parameters: Mapping[str, object]) -> str:
    """Log a comparison as a run of its own.

    Args:
        store: where MLflow keeps it.
        comparison: what to log.
        parameters: of the run.

    Returns:
        The address of its picture; of a local store, a fragment that starts with "#".
    """
    tags, note = {"role": "comparison"}, describe(comparison)[:5000]
    with single_run(store, EXPERIMENT, " against ".join(comparison.fronts)[:250], tags, note) as run:
        values = {f"hypervolume/{metric_key(name)}": value for name, value in comparison.hypervolumes.items()}
        values["hypervolume_together"] = comparison.together
        given = {"objectives": ",".join(comparison.objectives), **parameters}
        run.log(values, {name: str(value)[:6000] for name, value in given.items() if value is not None})
        plot_fronts(comparison.fronts, comparison.objectives, run.folder / PICTURE)
        (run.folder / "comparison.json").write_text(json.dumps(asdict(comparison), indent=2) + "\n")
    return f"{run.link}/artifacts/{quote(PICTURE)}"


def describe(comparison: Comparison) -> str:
    """The comparison as Markdown tables, for the run's note."""
    names = list(comparison.fronts)
    cells = [in_markdown(name) for name in names]
    lines = [f"| | {' | '.join(cells)} |", f"|---|{'---|' * len(names)}"]
    lines.append("| complete trials | " + " | ".join(str(comparison.trials[n]) for n in names) + " |")
    lines.append("| on the front | " + " | ".join(str(len(comparison.fronts[n])) for n in names) + " |")
    lines.append("| hypervolume | " + " | ".join(f"{comparison.hypervolumes[n]:.4f}" for n in names) + " |")
    for other, cell in zip(names, cells, strict=True):
        own = [comparison.coverages[n].get(other) for n in names]
        lines.append(f"| covers of {cell} | " + " | ".join("" if v is None else f"{v:.0%}" for v in own) + " |")
    for floor, reached in comparison.attainment.items():
        for metric in next(iter(reached.values())):
            best = [reached[n][metric] for n in names]
            shown = ["none" if v is None else written(metric, v) for v in best]
            lines.append(f"| {at_floor(comparison, metric, floor)} | " + " | ".join(shown) + " |")
    return "\n".join(lines)
