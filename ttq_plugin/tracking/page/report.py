"""One study as one HTML page: it needs no network, no server and no other file."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

from ttq_plugin.fronts import Objective, hypervolume_over_trials, upward
from ttq_plugin.statistics.noninferiority import SIGNIFICANCE
from ttq_plugin.support.names import in_html, in_script
from ttq_plugin.tasks.scoring.parts import is_lost, part_label, part_text
from ttq_plugin.tracking.page import figures
from ttq_plugin.tracking.pictures.front import in_percent, method_of
from ttq_plugin.tracking.pictures.window import far_off
from ttq_plugin.tracking.records import TrialRecord, front, natural_vector, objective_vector
from ttq_plugin.tracking.words import SIZES, drawn, for_page, kilobytes, written

PAGE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Study:
    """The contents of a study's report.

    Attributes:
        name: The study's name.
        facts: What was searched and how, for the head of the page.
        objectives: Metric names.
        records: The finished trials.
        commands: Commands that train the complete trials again, by the trial's number.
        pick: The recommended member's number.
        why: What makes it the recommended one.
        tests: Test score of the members that were tested.
        remarks: Further remarks on a trial, by its number.
        importances: Heading -> objective -> parameter -> (share, standard error).
        score: The task's metric.
        evidence: Trial -> how sure its test score is, see ``tracking.store.tested``.
        full_precision: The full-precision model's ``score`` and ``parts`` on validation data, and the ``classes``'
            names; empty for studies of earlier versions.
    """

    name: str
    facts: Mapping[str, str]
    objectives: Sequence[str]
    records: Sequence[TrialRecord]
    commands: Mapping[int, str]
    pick: int
    why: str
    tests: Mapping[int, float] = field(default_factory=dict)
    remarks: Mapping[int, str] = field(default_factory=dict)
    importances: Mapping[str, figures.Shares] = field(default_factory=dict)
    score: Objective = Objective("mcc")
    full_precision: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


def report_page(study: Study) -> str:
    """The page.

    Args:
        study: The study, with at least one complete trial.

    Returns:
        HTML with plotly's script inside.
    """
    from plotly.offline import get_plotlyjs

    members = front(study.records, study.objectives)
    records = sorted(study.records, key=lambda record: record.number)
    points = _points(records, members, study)
    vectors = {record.number: objective_vector(record, study.objectives) for record in study.records}
    volumes = hypervolume_over_trials([None if record.violated else vectors[record.number] for record in records])
    drawn = _pairs(points, records, members, study)
    boxes = _boxes(drawn)
    if len(study.objectives) > 2:
        drawn["space"] = figures.space(points, study.objectives)
    drawn["volume"] = figures.volume([record.number for record in records], volumes)
    shares = {f"share{i}": figures.importance(own) for i, own in enumerate(study.importances.values())}
    told = {point.number: [point.hover, study.commands[point.number]] for point in points}
    pick = next(record for record in records if record.number == study.pick)
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=in_html(_title(study)),
        facts=_facts(study.facts),
        counts=_counts(records, members, volumes),
        pick_number=study.pick,
        pick=_hover(pick, study),
        why=in_html(study.why),
        command=in_html(study.commands[study.pick]),
        pairs=boxes,
        space='<h2>All three at once</h2><div class="plot" id="space"></div>' if "space" in drawn else "",
        shares=_shares(study.importances),
        table=_table(records, members, study),
        parts=_parts(records, members, study),
        failures=_failures(records),
        version=in_html(version("ttq-plugin")),
        data=in_script({"figures": drawn | shares, "trials": told}),
        plotly=get_plotlyjs(),
    )


def _points(records: Sequence[TrialRecord], members: set[int], study: Study) -> list[figures.Point]:
    """The trials that have all objectives, as the figures show them."""
    return [
        figures.Point(
            record.number,
            in_percent(vector, study.objectives),
            _hover(record, study),
            record.number in members,
            record.origin == "paper",
            method_of(record),
        )
        for record in records
        if (vector := natural_vector(record, study.objectives)) is not None
    ]


def _pairs(
    points: Sequence[figures.Point], records: Sequence[TrialRecord], members: set[int], study: Study
) -> dict[str, figures.Figure]:
    """A figure for each pair of objectives, by the name of its box."""
    known: dict[str, float] = {}
    whole = study.full_precision.get("score")
    if study.full_precision:
        known[study.score] = in_percent((study.full_precision["score"],), [study.score])[0]
    far = far_off(records, members, study.objectives, study.score, whole)
    pairs = figures.projections(points, study.objectives, known, far)
    return {f"pair{i}": figure for i, figure in enumerate(pairs)}


def _title(study: Study) -> str:
    """The study's name, and the task if the name does not contain it."""
    task = study.facts.get("task", "")
    return study.name if task in study.name else f"{study.name} ({task})"


def _hover(record: TrialRecord, study: Study) -> str:
    """A trial in a few lines: its objectives, then its settings."""
    names = list(dict.fromkeys([*study.objectives, *(("srqw",) if "srqw" in record.metrics else ())]))
    values = [f"{for_page(name)}: {written(name, record.metrics[name])}" for name in names]
    if record.number in study.tests:
        test = study.score.on_test
        values.append(f"{for_page(test)}: {written(test, study.tests[record.number])}")
    values += [f"{kilobytes(record.metrics[size])} {words}" for size, words in SIZES.items() if size in record.metrics]
    values += [f"{_milliseconds(record)} ms a sample, measured"] if "latency" in record.metrics else []
    values += [f"breaks {in_html(text)}" for text in record.violated]
    values += [in_html(study.remarks[record.number])] if record.number in study.remarks else []
    settings = [f"{name} {_number(value)}" for name, value in record.parameters.items() if value is not None]
    origin = ", published setting" if record.origin == "paper" else ""
    lines = [f"<b>trial {record.number}</b>{origin}", *values, *(in_html(line) for line in settings)]
    return "<br>".join(lines)


def _milliseconds(record: TrialRecord) -> str:
    return f"{1e3 * record.metrics['latency']:.3g}"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _facts(facts: Mapping[str, str]) -> str:
    return "".join(f"<dt>{in_html(name)}</dt><dd>{in_html(value)}</dd>" for name, value in facts.items())


def _counts(records: Sequence[TrialRecord], members: set[int], volumes: Sequence[float]) -> str:
    states = Counter(record.state for record in records)
    words = [f"{states[state]} {state}" for state in ("complete", "pruned", "failed") if states[state]]
    seconds = sum(record.seconds for record in records)
    return (
        f"{', '.join(words)} trials in {seconds:.0f} s of training; {len(members)} on the front; "
        f"hypervolume {volumes[-1]:.4f}"
    )


def _boxes(drawn: Mapping[str, figures.Figure]) -> str:
    return "".join(f'<div class="plot" id="{name}"></div>' for name in drawn)


def _shares(importances: Mapping[str, figures.Shares]) -> str:
    if not importances:
        return "<p>There are too few trials, or nothing varied, so importances cannot be estimated.</p>"
    parts = (
        f'<div><h3>{in_html(heading)}</h3><div class="plot" id="share{i}"></div></div>'
        for i, heading in enumerate(importances)
    )
    return f'<div class="grid">{"".join(parts)}</div>'


def _table(records: Sequence[TrialRecord], members: set[int], study: Study) -> str:
    first, test = study.objectives[0], study.score.on_test
    rows = sorted(
        (r for r in records if r.number in members), key=lambda r: (-upward(first, r.metrics[first]), r.number)
    )
    metrics = list(dict.fromkeys([*study.objectives, *(m for m in ("srqw",) if all(m in r.metrics for r in rows))]))
    settings = list(dict.fromkeys(name for r in rows for name, value in r.parameters.items() if value is not None))
    tested = [r.number for r in rows if r.number in study.tests]
    moved = any(f"{test}_change" in study.evidence.get(number, {}) for number in tested)
    tests = [for_page(test), *(["change from full precision (95 % interval)"] if moved else [])] if tested else []
    sizes = [name for name in SIZES if all(name in r.metrics for r in rows)]
    whole = [r.metrics.get("bits_fp32") for r in rows[:1] for _ in sizes]
    timed = ["ms a sample"] if all("latency" in r.metrics for r in rows) else []
    heads = ["trial", *map(for_page, metrics), *(SIZES[name] for name in sizes), *timed, *tests]
    heads += map(in_html, settings)
    body = [_baseline(study, metrics, whole, len(heads))] if study.full_precision else []
    for r in rows:
        cells = [str(r.number) + (" *" if r.origin == "paper" else "")]
        cells += [written(name, r.metrics[name]) for name in metrics]
        cells += [kilobytes(r.metrics[name]) for name in sizes]
        cells += [_milliseconds(r)] if timed else []
        if tested:
            cells.append(written(test, study.tests[r.number]) if r.number in study.tests else "")
        if moved:
            cells.append(_change(test, study.evidence.get(r.number, {})))
        cells += ["" if r.parameters.get(n) is None else in_html(_number(r.parameters[n])) for n in settings]
        mark = ' class="pick"' if r.number == study.pick else ""
        body.append(f"<tr{mark} data-trial={r.number}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(body)}"


def _change(test: str, found: Mapping[str, float]) -> str:
    """A test score's change from full precision with its interval; bold where it is within the margin for sure."""
    if f"{test}_change" not in found:
        return ""
    value, low, high = (
        drawn(test, found[f"{test}_change{end}"]) if f"{test}_change{end}" in found else math.nan
        for end in ("", "_low", "_high")
    )
    told = f"{value:+.3g} ({low:+.3g} to {high:+.3g})"
    return f"<b>{told}</b>" if found.get(f"{test}_p_inferior", 1.0) <= SIGNIFICANCE else told


def _baseline(study: Study, metrics: Sequence[str], sizes: Sequence[float | None], columns: int) -> str:
    """The full-precision model as the front's first row; its sizes are bits."""
    score = study.full_precision["score"]
    cells = ["full precision", *(written(name, score) if name == study.score else "" for name in metrics)]
    cells += ["" if bits is None else kilobytes(bits) for bits in sizes]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells + [""] * (columns - len(cells))) + "</tr>"


def _parts(records: Sequence[TrialRecord], members: set[int], study: Study) -> str:
    """The parts of the members' scores next to the full-precision model's; lost classes are highlighted."""
    before = study.full_precision.get("parts", {})
    rows = [record for record in records if record.number in members and record.parts]
    names = list(dict.fromkeys(name for parts in (before, *(r.parts for r in rows)) for name in parts))
    if not rows or not names:
        return ""
    heads = ["", "full precision", *(f"trial {r.number}" for r in rows)]
    body = []
    for name in names:
        label = part_label(name, study.full_precision.get("classes", ()))
        cells = [in_html(label), part_text(name, before.get(name))]
        marks = ["", ""]
        for r in rows:
            cells.append(part_text(name, r.parts.get(name)))
            marks.append(' class="lost"' if is_lost(name, before.get(name), r.parts.get(name, 0.0)) else "")
        body.append("<tr>" + "".join(f"<td{m}>{c}</td>" for m, c in zip(marks, cells, strict=True)) + "</tr>")
    return (
        '<h3>What the scores are made of (validation)</h3><div class="wide"><table id="parts">'
        f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(body)}</table></div>"
        '<p class="note">Red: a class that full precision finds and that compression has lost.</p>'
    )


def _failures(records: Sequence[TrialRecord]) -> str:
    """Why trials ended early, the most frequent reasons first."""
    reasons = Counter((r.state, r.reason or "no reason given") for r in records if r.state != "complete")
    if not reasons:
        return ""
    rows = (
        f"<tr><td>{count}</td><td>{in_html(state)}</td><td>{in_html(reason)}</td></tr>"
        for (state, reason), count in reasons.most_common(10)
    )
    return f"<h2>Trials without a result</h2><table>{''.join(rows)}</table>"
