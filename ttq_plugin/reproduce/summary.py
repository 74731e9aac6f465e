"""A table's results as plain data: the report's JSON twin, from which its text and pictures are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ttq_plugin.reproduce.beyond import goals
from ttq_plugin.reproduce.cells import FULL, Cell
from ttq_plugin.reproduce.published import Number, Published, repetitions
from ttq_plugin.reproduce.statistics import Sample, sample

COLUMNS = {
    "cr_gain_total": "CR_G^T",
    "cr_gain_quantized": "CR_G^Q",
    "srqw": "SRQW",
    "ec_gain_total": "EC_G^T",
    "mcc": "MCC",
    "mcc_change": "MCC change",
}
"""The columns of the papers' table 2, and the change against the full-precision model of the same repetition."""

Result = dict[str, Any]
Rows = dict[str, dict[str, Number | None]]


def summarize(table: str, paper: Published, pairs: Sequence[tuple[Cell, Result]]) -> dict[str, Any]:
    """Means, standard deviations and differences of every row and column, in percent (points).

    Args:
        table: Its name.
        paper: What is published.
        pairs: The cells and their results.

    Returns:
        ``rows``: a list in the table's order, each with ``row``, ``repetitions``, ``diverged``, ``settings`` and a
        mapping ``columns`` from the keys of ``COLUMNS`` to ours, the published number and their difference.
    """
    known = _published(table, paper)
    rows = []
    for row in dict.fromkeys(cell.row for cell, _ in pairs):
        results = [result for cell, result in pairs if cell.row == row]
        columns = {}
        for column in COLUMNS:
            ours = sample([_value(result, column) for result in results])
            if ours is not None and not (row == FULL and column == "mcc_change"):
                columns[column] = _entry(ours, known.get(row, {}).get(column))
        rows.append(
            {
                "row": row,
                "repetitions": len(results),
                "diverged": sum(result["metrics"] is None for result in results),
                "settings": results[0]["settings"],
                "columns": columns,
                "validation_change": _validation_change(row, results),
                "curves": [result["curve"] for result in results],
                "notes": sorted({note for result in results for note in result["notes"]}),
                "seconds": sum(result["seconds"] for result in results),
            }
        )
    return {"table": table, "task": paper.task, "published_as": paper.name, "rows": rows} | _goals(table, paper, rows)


def environments(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The machines that trained the results, the one of most trainings first.

    Args:
        results: The results of ``train_cell``; a killed run may have gone on elsewhere.

    Returns:
        What each result says of its machine, once, with ``trainings``: how many say so. Results of before machines were
        kept count for none.
    """
    counts = Counter(tuple(result["environment"].items()) for result in results if "environment" in result)
    return [dict(known) | {"trainings": count} for known, count in counts.most_common()]


def _validation_change(row: str, results: Sequence[Result]) -> dict[str, Any] | None:
    """MCC on validation data less full precision's there, in points; None without one."""
    found = [100 * float(r["metrics"]["mcc"] - r["fp_mcc"]) for r in results if row != FULL and _seen(r)]
    ours = sample(found)
    return None if ours is None else _entry(ours, None)


def _seen(result: Result) -> bool:
    """Whether it was scored on validation data that it had not learned."""
    return bool(result["metrics"]) and result["fp_mcc"] is not None


def _value(result: Result, column: str) -> float | None:
    """A number of one repetition in percent; MCC is the test split's."""
    if result["metrics"] is None:
        return None
    if column == "mcc":
        return 100 * float(result["test_mcc"])
    if column == "mcc_change":
        return 100 * float(result["test_mcc"] - result["fp_test_mcc"])
    value = result["metrics"].get(column)
    return None if value is None else 100 * float(value)


def _entry(ours: Sample, known: Number | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"mean": ours.mean, "std": ours.std, "values": list(ours.values)}
    entry["interval"] = ours.interval()
    if known is not None:
        difference = ours.interval(known, repetitions())
        entry |= {"published": list(known), "difference": ours.mean - known[0], "difference_interval": difference}
    return entry


def _published(table: str, paper: Published) -> Rows:
    """Published numbers by the row's name in our table."""
    full: Rows = {FULL: paper.main["fp"]}
    if table in {"main", "sparsity"}:
        rows = {**paper.main, "pttq-released": paper.main["pttq"]}
    elif table == "ablations":
        rows = {"pttq": paper.main["pttq"], **paper.ablations}
    elif table == "normalization":
        rows = dict(paper.normalization)
    else:
        rows = {}
    return {row: columns | _change(columns, full[FULL]) for row, columns in (full | rows).items()}


def _change(columns: dict[str, Number | None], full: dict[str, Number | None]) -> dict[str, Number | None]:
    """The published change of MCC; repetitions are not paired in print, so their variances add."""
    own, base = columns.get("mcc"), full["mcc"]
    if own is None or base is None:
        return {}
    return {"mcc_change": (own[0] - base[0], (own[1] ** 2 + base[1] ** 2) ** 0.5)}


def _goals(table: str, paper: Published, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """For the table ``beyond``: whether each goal is reached by the means."""
    if table != "beyond":
        return {}
    found = {row["row"]: row["columns"] for row in rows}
    reached = []
    for goal in goals(paper.name):
        if not (columns := found.get(goal.row)):
            continue
        checks = [("srqw", 100 * goal.srqw), ("mcc_change", 100 * goal.mcc_change)]
        checks += [("mcc", 100 * goal.mcc)] if goal.mcc is not None else []
        for column, least in checks:
            mean = columns[column]["mean"] if column in columns else None
            met = mean is not None and mean >= least
            reached.append({"row": goal.row, "column": column, "goal": least, "mean": mean, "reached": met})
    papers = {"fp": paper.main["fp"]["mcc"], "pttq": paper.main["pttq"]["mcc"], "zeros": paper.main["pttq"]["srqw"]}
    return {"goals": reached, "papers": papers}
