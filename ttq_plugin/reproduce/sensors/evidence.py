"""Trainings of several seeds as one table: scores and changes over people, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttq_plugin.reproduce.peers.rounds import FULL
from ttq_plugin.reproduce.sensors.members import DENSE
from ttq_plugin.statistics.counts import FROM_COUNTS
from ttq_plugin.statistics.noninferiority import Verdict, corrected_t, verdicts
from ttq_plugin.statistics.resampling import Answers, Interval, change, interval
from ttq_plugin.tasks.metrics import METRICS, Metric
from ttq_plugin.tasks.scoring.readings import BINARY

Result = Mapping[str, Any]
Row = dict[str, Any]

ON_INTEGERS = ", firmware"
"""Suffix of a row's name for the same network in integer arithmetic."""

SMALLEST = 15
"""A member is small if it takes at most this fraction of the bytes of full precision."""

ZEROS = 0.9
"""A member is sparse if it has at least this share of zeros, to half a percent."""


def pooled(tables: Sequence[Result]) -> Answers:
    """Answers of several seeds' models as those of one.

    A person whom several seeds test is one group with the answers of all their models, so that people, not trainings,
    are resampled. A sample without a group is paired with the sample in the same place of the other seeds' test splits.

    Args:
        tables: What ``told`` gave for each seed.

    Returns:
        The answers; the model's outputs are the classes that it chose.
    """
    truth, predicted = (np.concatenate([_numbers(table, key) for table in tables]) for key in ("truth", "predicted"))
    groups = np.concatenate([_groups(table) for table in tables])
    return Answers(_outputs(tables[0], predicted), torch.from_numpy(truth), groups)


def _numbers(table: Result, key: str) -> np.ndarray:
    return np.array([int(word) for word in table[key].split()], dtype=np.int64)


def _groups(table: Result) -> np.ndarray:
    places = _numbers(table, "groups")
    return np.array(table["names"])[places] if table["grouped"] else places.astype(str)


def _outputs(table: Result, predicted: np.ndarray) -> Tensor:
    chosen = torch.from_numpy(predicted)
    if table["kind"] == BINARY:
        return 2.0 * chosen - 1
    return torch.nn.functional.one_hot(chosen, table["classes"]).float()


def confusion(table: Sequence[Result]) -> list[list[int]]:
    """Counts (true, predicted) of several seeds together."""
    found = np.zeros((table[0]["classes"],) * 2, dtype=int)
    for one in table:
        np.add.at(found, (_numbers(one, "truth"), _numbers(one, "predicted")), 1)
    return [[int(count) for count in line] for line in found]


def summarize(results: Sequence[Result], metric: Metric, margin: float | None) -> list[Row]:
    """A row for full precision, each member, and each network on integers.

    Args:
        results: The results of ``train_member``, none of them tuning.
        metric: The task's metric.
        margin: The margin of the non-inferiority tests, in the metric's unit; None for none.

    Returns:
        ``row``, ``repetitions``, ``diverged``, ``settings``, ``seconds``, ``notes``; ``value`` of the score, ``score``
        and ``change`` with their intervals over groups (None for a single group), ``resampled`` (the mean change over
        seeds by the corrected resampled t-test, None for one seed), ``verdict`` (corrected by Holm for all rows),
        ``accuracy``, ``people`` (accuracy by group), ``confusion``, ``bytes``, ``zeros``, ``flash``, ``ram``,
        ``instructions``, ``milliseconds`` and ``speedup``; what is not known is None.
    """
    full = {result["seed"]: result["answers"] for result in results if result["row"] == FULL}
    rows, changes = [], {}
    for name in dict.fromkeys(result["row"] for result in results):
        own = [result for result in results if result["row"] == name]
        done = [result for result in own if result["answers"] is not None and result["seed"] in full]
        parts = [(name, [(one, one["firmware"] if name == DENSE else one) for one in done])]
        if name != DENSE and any(one["firmware"] for one in done):
            parts.append((name + ON_INTEGERS, [(one, one["firmware"]) for one in done if one["firmware"]]))
        for label, found in parts:
            row = _row(label, own, found, metric)
            if found and name != FULL:
                moved = _change(row, found, full, metric)
                if moved is not None:
                    changes[label] = moved
            rows.append(row)
    judged = verdicts(changes, margin, higher=metric.higher) if margin is not None else {}
    for row in rows:
        verdict: Verdict | None = judged.get(row["row"])
        row["verdict"] = None if verdict is None else vars(verdict)
    return rows


def _row(label: str, own: Sequence[Result], found: Sequence[tuple[Result, Result]], metric: Metric) -> Row:
    """The numbers of a row that need no comparison."""
    row: Row = {
        "row": label,
        "repetitions": len(own),
        "diverged": sum(one["metrics"] is None for one in own),
        "settings": own[0]["settings"],
        "seconds": sum(one["seconds"] for one in own),
        "notes": sorted({note for one in own for note in one["notes"]}),
        "seeds": [one["seed"] for one, _ in found],
        "values": [part["test"] for _, part in found],
        **dict.fromkeys(("value", "score", "change", "resampled", "accuracy", "people", "confusion", "bytes", "zeros")),
        **dict.fromkeys(("flash", "ram", "instructions", "milliseconds", "speedup")),
    }
    if not found:
        return row
    tables = [part["answers"] for _, part in found]
    answers = pooled(tables)
    row["value"] = float(metric.function(answers.outputs, answers.targets))
    known = interval(metric, answers)
    row["score"] = None if known is None else _grouped(known, tables).to_dict()
    row |= {"accuracy": METRICS["accuracy"].function(answers.outputs, answers.targets), "confusion": confusion(tables)}
    row["people"] = _people(answers) if tables[0]["grouped"] else None
    row |= {"bytes": _mean([part["bytes"] for _, part in found]), "zeros": _mean([one["zeros"] for one, _ in found])}
    for key in ("flash", "ram", "instructions"):
        row[key] = _mean([part.get(key) for _, part in found])
    times = [one["milliseconds"] for one, part in found if part is one and one["milliseconds"]]
    row |= {"milliseconds": _mean([time[0] for time in times]), "speedup": _mean([time[1] for time in times])}
    return row


def _change(
    row: Row, found: Sequence[tuple[Result, Result]], full: Mapping[int, Result], metric: Metric
) -> Interval | None:
    """Writes the change from full precision of the same seeds into the row, and returns it."""
    tables = [part["answers"] for _, part in found]
    before = [full[one["seed"]] for one, _ in found]
    moved = change(metric, pooled(before), pooled(tables))
    if moved is None:
        return None
    moved = _grouped(moved, tables)
    row["change"] = moved.to_dict()
    if len(found) > 1:
        formula = FROM_COUNTS[metric.name]
        scores = [[float(formula(np.array(confusion([t]), float))) for t in side] for side in (before, tables)]
        train, test = found[0][0]["samples"]
        gains = [own - whole for whole, own in zip(*scores, strict=True)]
        row["resampled"] = corrected_t(gains, test / (train + test)).to_dict()
    return moved


def _grouped(found: Interval, tables: Sequence[Result]) -> Interval:
    """What ``pooled`` joins are groups of answers always, but of people only where the task names them."""
    return replace(found, grouped=bool(tables[0]["grouped"]))


def _people(answers: Answers) -> dict[str, float]:
    """Share of right answers by group."""
    assert answers.groups is not None
    right = (answers.outputs.argmax(1) if answers.outputs.dim() > 1 else answers.outputs > 0) == answers.targets
    return {str(name): float(right[answers.groups == name].float().mean()) for name in np.unique(answers.groups)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def goal(rows: Sequence[Row]) -> dict[str, Any]:
    """Whether a member is shown to be non-inferior, sparse and small at the same time.

    Args:
        rows: What ``summarize`` returned.

    Returns:
        ``reached``; ``row``, the smallest member that reaches it, or else the one that meets most of the conditions,
        of several the one nearest to non-inferiority (None if nothing was tested); and ``missed``, the conditions that
        this one does not meet.
    """
    full = next((row["bytes"] for row in rows if row["row"] == FULL), None)
    found = []
    for row in rows:
        if row["row"] == FULL or row["verdict"] is None or not full:
            continue
        conditions = {
            "not shown to be non-inferior": row["verdict"]["holds"],
            f"fewer than {ZEROS:.0%} zeros": row["zeros"] >= ZEROS - 0.005,
            f"more than 1/{SMALLEST} of the bytes": SMALLEST * row["bytes"] <= full,
        }
        missed = [words for words, met in conditions.items() if not met]
        found.append((len(missed), row["bytes"] if not missed else row["verdict"]["p"], row["row"], missed))
    if not found:
        return {"reached": False, "row": None, "missed": []}
    _, _, name, missed = min(found)
    return {"reached": not missed, "row": name, "missed": missed}
