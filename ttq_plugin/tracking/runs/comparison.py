"""A comparison of several studies' fronts as a run in MLflow and as a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING
from urllib.parse import quote

from ttq_plugin.fronts import is_higher
from ttq_plugin.support.names import in_markdown, metric_key
from ttq_plugin.tracking.comparison import Comparison, MemberOnTest
from ttq_plugin.tracking.pictures.comparison import plot_fronts
from ttq_plugin.tracking.runs.single import single_run
from ttq_plugin.tracking.store import Store
from ttq_plugin.tracking.words import drawn, for_text, is_fraction, label_of, written

if TYPE_CHECKING:
    pass

EXPERIMENT = "comparisons"
PICTURE = "fronts.png"


def at_floor(comparison: Comparison, metric: str, floor: float) -> str:
    """The label of a row of the attainment, in plain characters.

    Args:
        comparison: The comparison that the row belongs to.
        metric: The objective.
        floor: The floor of the score.

    Returns:
        Such as "compression gain CR_G^T (%) at MCC >= 90 %".
    """
    sign = ">=" if is_higher(comparison.score) else "<="
    value = f"{100 * floor:.4g} %" if is_fraction(comparison.score) else f"{floor:.4g}"
    return f"{for_text(metric)} at {label_of(comparison.score)} {sign} {value}"


def record_comparison(store: Store, comparison: Comparison, parameters: Mapping[str, object]) -> str:
    """Log a comparison as a run of its own.

    Args:
        store: The MLflow store.
        comparison: What to log.
        parameters: The parameters of the run.

    Returns:
        The address of its picture; of a local store, a fragment that starts with "#".
    """
    tags, note = {"role": "comparison"}, describe(comparison)[:5000]
    with single_run(store, EXPERIMENT, " against ".join(comparison.fronts)[:250], tags, note) as run:
        values = {f"hypervolume/{metric_key(name)}": value for name, value in comparison.hypervolumes.items()}
        values["hypervolume_together"] = comparison.together
        given = {"objectives": ",".join(comparison.objectives), **parameters}
        run.log(values, {name: str(value)[:6000] for name, value in given.items() if value is not None})
        plot_fronts(comparison.fronts, comparison.objectives, run.folder / PICTURE, score=comparison.score)
        (run.folder / "comparison.json").write_text(json.dumps(asdict(comparison), indent=2) + "\n")
    return f"{run.link}/artifacts/{quote(PICTURE)}"


def describe(comparison: Comparison) -> str:
    """The comparison as a Markdown table, for the run's note."""
    names = list(comparison.fronts)
    lines = [f"| | {' | '.join(map(in_markdown, names))} |", f"|---|{'---|' * len(names)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows(comparison, in_markdown)])


def rows(comparison: Comparison, encode: Callable[[str], str] = str) -> list[list[str]]:
    """The comparison as lines of a table: what each tells, as ``encode`` writes it, then a cell for each study."""
    names = list(comparison.fronts)
    told = [
        ["complete trials", *(str(comparison.trials[name]) for name in names)],
        ["on the front", *(str(len(comparison.fronts[name])) for name in names)],
        ["hypervolume", *(f"{comparison.hypervolumes[name]:.4f}" for name in names)],
    ]
    for other in names:
        covered = [comparison.coverages[name].get(other) for name in names]
        told.append([f"covers of {other}", *("" if v is None else f"{v:.0%}" for v in covered)])
    for floor, reached in comparison.attainment.items():
        for metric in next(iter(reached.values())):
            best = [reached[name][metric] for name in names]
            row = [at_floor(comparison, metric, floor)]
            told.append(row + ["none" if v is None else written(metric, v) for v in best])
    return [[encode(head), *cells] for head, *cells in told + _rows_of_tests(comparison, names)]


def _rows_of_tests(comparison: Comparison, names: Sequence[str]) -> list[list[str]]:
    """Lines on test data: the most accurate members, and the smallest that are proven not inferior."""
    if not comparison.tests:
        return []
    score = comparison.score
    other = next(name for name in comparison.objectives if name != score)
    tests = [comparison.tests.get(name) for name in names]
    percent, unit = (" (%)", " (points)") if is_fraction(score) else ("", "")
    told = [
        [
            f"most accurate member: test {label_of(score)}{percent}",
            *("" if t is None else _told(score, t) for t in tests),
        ],
        [
            f"its change from full precision{unit}",
            *("" if t is None or t.change is None else _moved(score, vars(t.change)) for t in tests),
        ],
    ]
    if any(test is not None and test.again is not None for test in tests):
        cells = ["" if t is None or t.again is None else _moved(score, t.again) for t in tests]
        told.append([f"its change over other seeds, on validation data{unit}", *cells])
    if comparison.margin is not None and comparison.proven:
        margin = _in_points(score, comparison.margin)
        none = {name: "none" if name in comparison.proven else "" for name in names}
        proven = {name: comparison.proven.get(name) for name in names}
        cells = [f"{written(other, m.best)} (trial {m.trial})" if m else none[name] for name, m in proven.items()]
        told.append([f"best {for_text(other)} proven within {margin} of full precision", *cells])
    return told


def _in_points(score: str, margin: float) -> str:
    """A margin as people read it, such as "1 point"."""
    value = drawn(score, margin)
    return f"{value:g}{(' point' if value == 1 else ' points') if is_fraction(score) else ''}"


def _told(score: str, test: MemberOnTest) -> str:
    value = written(score, test.score)
    if test.low is None or test.high is None:
        return value
    return f"{value} ({written(score, test.low)} to {written(score, test.high)})"


def _moved(score: str, change: Mapping[str, float | int | bool]) -> str:
    value, low, high = (drawn(score, change[end]) for end in ("value", "low", "high"))
    return f"{value:+.3g} ({low:+.3g} to {high:+.3g})"
