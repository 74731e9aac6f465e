"""One trial as one child run: what is written about it, and what MLflow already knows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ttq_plugin.tracking.records import TrialRecord
from ttq_plugin.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, Run

PARENT = "mlflow.parentRunId"
COLOUR = "mlflow.runColor"
FRONT_COLOUR, REST_COLOUR = "#d62728", "#b8bcc2"
# MLflow's own names for how a run can end; a pruned trial was stopped on purpose.
STATUS = {"complete": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}
# Logged of every trial beside its objectives and the task's metric.
SHOWN = ("srqw", "cr_gain_total", "cr_gain_quantized", "ec_gain_total")

MOST_PARTS = 40
"""A run shows what its score is made of up to so many classes; of more, the study's database has them."""
_LONGEST_TAG = 5000
# Metrics that MLflow takes in one call.
_AT_ONCE = 1000


@dataclass
class Child:
    """A trial's run, as far as this writer has to know it."""

    run_id: str
    done: bool
    pareto: bool
    test: float | None = None
    curved: bool = False


def membership(pareto: bool) -> dict[str, str]:
    """The tags that change when a trial joins or leaves the front."""
    return {"pareto": str(pareto).lower(), COLOUR: FRONT_COLOUR if pareto else REST_COLOUR}


def existing(store: Store, experiment_id: str, parent: str, score: str) -> dict[int, Child]:
    """Every child run of a study by its trial number, the earliest where a number came twice.

    Args:
        store: where MLflow keeps it.
        experiment_id: the study's experiment.
        parent: the study's run.
        score: the task's metric.

    Returns:
        What is known of each.
    """
    children: dict[int, Child] = {}
    token = None
    while True:
        page = store.client.search_runs(
            [experiment_id],
            f"tags.`{PARENT}` = '{parent}'",
            order_by=["attributes.start_time ASC"],
            max_results=1000,
            page_token=token,
        )
        for run in page:
            number = run.data.tags.get("trial", "")
            if number.isdigit():  # not a run that a user nested there by hand
                children.setdefault(int(number), _child(run, score))
        token = page.token
        if not token:
            return children


def _child(run: "Run", score: str) -> Child:
    done = run.info.status in STATUS.values()
    pareto, numbers = run.data.tags.get("pareto") == "true", run.data.metrics
    return Child(run.info.run_id, done, pareto, numbers.get(f"test_{score}"), curved="loss" in numbers)


def create(
    store: Store, experiment_id: str, parent: str, record: TrialRecord, pareto: bool, method: str | None = None
) -> Child:
    """Open a child run that already knows its trial, so that a killed writer finds it again."""
    own = {PARENT: parent, "role": "trial", "trial": str(record.number), **membership(pareto)}
    tags = _tags(record, method) | own
    run = store.client.create_run(
        experiment_id, start_time=round(1000 * record.started), tags=tags, run_name=f"trial {record.number}"
    )
    return Child(run.info.run_id, done=False, pareto=pareto)


def fill(store: Store, child: Child, record: TrialRecord, objectives: Sequence[str]) -> None:
    """Write a trial's numbers and end its run; writing it twice leaves the same run."""
    end = round(1000 * (record.started + record.seconds))
    store.client.log_batch(child.run_id, _metrics(record, end, objectives), _parameters(record))
    store.client.set_terminated(child.run_id, STATUS[record.state], end_time=end)
    child.done = True


def draw_curves(store: Store, child: Child, record: TrialRecord) -> None:
    """Log what was measured after each epoch, as the steps of metrics; once a run."""
    from mlflow.entities import Metric

    end = round(1000 * (record.started + record.seconds))
    steps = [
        Metric(name, rounded(value), end, epoch)
        for name, values in record.curves.items()
        for epoch, value in enumerate(values, 1)
        if math.isfinite(value)
    ]
    for start in range(0, len(steps), _AT_ONCE):
        store.client.log_batch(child.run_id, steps[start : start + _AT_ONCE])
    child.curved = True


def rounded(value: float) -> float:
    """Six significant digits; whole numbers (bits, operations) stay exact."""
    return value if float(value).is_integer() else float(f"{value:.6g}")


def _metrics(record: TrialRecord, end: int, objectives: Sequence[str]) -> list["Metric"]:
    """The few that a reader compares runs by; front.csv and the study database have all."""
    from mlflow.entities import Metric

    if record.state == "failed":
        return []
    shown = {*objectives, *SHOWN}
    values = {name: value for name, value in record.metrics.items() if name in shown}
    if len(record.parts) <= MOST_PARTS:
        values |= {name: value for name, value in record.parts.items() if name not in values}
    values["duration_seconds"] = record.seconds
    # The trial's own end as the time stamp: MLflow then recognises a metric that is written again.
    return [Metric(name, rounded(value), end, 0) for name, value in values.items() if math.isfinite(value)]


def _parameters(record: TrialRecord) -> list["Param"]:
    from mlflow.entities import Param

    values = {"seed": record.seed} | record.parameters
    return [Param(name, str(value)) for name, value in values.items() if value is not None]


def _tags(record: TrialRecord, method: str | None) -> dict[str, str]:
    tags = {"origin": record.origin, "method": record.parameters.get("method") or method, "reason": record.reason}
    tags["mlflow.note.content"] = "\n".join(f"- {note}" for note in record.notes)
    return {name: str(value)[:_LONGEST_TAG] for name, value in tags.items() if value}
