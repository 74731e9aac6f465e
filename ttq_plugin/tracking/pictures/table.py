"""The front as a table, for a reader without MLflow."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from ttq_plugin.fronts import upward
from ttq_plugin.tracking.records import TrialRecord, front


def write_front(
    records: Sequence[TrialRecord],
    objectives: Sequence[str],
    tests: Mapping[int, float],
    path: Path,
    score: str = "mcc",
) -> Path:
    """Write the front members as CSV, best first objective first.

    Args:
        records: The trials.
        objectives: The metrics that span the front; their columns come before the other metrics.
        tests: Trial number -> test score of the members that were tested.
        path: The file to write.
        score: The task's metric.

    Returns:
        The path that was written.
    """
    numbers = front(records, objectives)
    members = [record for record in records if record.number in numbers]
    members.sort(key=lambda record: (-upward(objectives[0], record.metrics[objectives[0]]), record.number))
    parameters = list(dict.fromkeys(name for member in members for name in member.parameters))
    others = sorted({name for member in members for name in member.metrics} - set(objectives))
    metrics = [*objectives, *others]
    tested = [f"test_{score}"] if any(number in tests for number in numbers) else []
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "origin", *parameters, *metrics, *tested])
        for member in members:
            row = [member.parameters.get(name) for name in parameters] + [member.metrics.get(name) for name in metrics]
            writer.writerow([member.number, member.origin, *row, *([tests.get(member.number)] if tested else [])])
    return path
