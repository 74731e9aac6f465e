"""Writes each trial as a child run, and reads what MLflow already knows of it."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ttq_plugin.tracking.interface.about import short
from ttq_plugin.tracking.records import TrialRecord
from ttq_plugin.tracking.store import Store
from ttq_plugin.tracking.words import GAINS, SIZES, drawn, for_chart, for_size, is_fraction, kilobytes, label_of

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, Run

PARENT = "mlflow.parentRunId"
COLOUR = "mlflow.runColor"
FRONT_COLOUR, REST_COLOUR, WHOLE_COLOUR = "#d62728", "#b8bcc2", "#111111"
# MLflow's own names for how a run can end; a pruned trial was stopped on purpose.
STATUS = {"complete": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}
# Logged of every trial beside its objectives and the task's metric.
SHOWN = ("srqw", "cr_gain_total", "cr_gain_quantized", "ec_gain_total")

MOST_PARTS = 40
"""Largest number of classes for which a run shows the parts of its score; the study's database has all of them."""
_LONGEST_TAG = 5000
# Metrics that MLflow takes in one call.
_AT_ONCE = 1000


@dataclass
class Child:
    """What the writer must know of a trial's run."""

    run_id: str
    done: bool
    pareto: bool
    test: float | None = None
    curved: bool = False
    far: bool = False


def membership(pareto: bool, far: bool = False) -> dict[str, str]:
    """The tags that change when a trial joins or leaves the front, or what is near full precision changes."""
    colour = FRONT_COLOUR if pareto else REST_COLOUR
    return {"pareto": str(pareto).lower(), "far": str(far).lower(), COLOUR: colour}


def existing(store: Store, experiment_id: str, parent: str, score: str) -> dict[int, Child]:
    """Every child run of a study by its trial number, the earliest where a number came twice.

    Args:
        store: The MLflow store.
        experiment_id: The study's experiment.
        parent: The study's run.
        score: The task's metric.

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
    test, far = numbers.get(f"test_{score}"), run.data.tags.get("far") == "true"
    return Child(run.info.run_id, done, pareto, test, curved="loss" in numbers, far=far)


def create(
    store: Store,
    experiment_id: str,
    parent: str,
    record: TrialRecord,
    tags: Mapping[str, str],
    name: str | None = None,
) -> Child:
    """Open a child run that already knows its trial, so that a killed writer finds it again.

    Args:
        store: The MLflow store.
        experiment_id: The study's experiment.
        parent: The study's run.
        record: The trial.
        tags: More tags, such as those of `membership`.
        name: The run's name.

    Returns:
        The run.
    """
    own = {PARENT: parent, "role": "trial", "trial": str(record.number), **tags}
    run = store.client.create_run(
        experiment_id,
        start_time=round(1000 * record.started),
        tags=_tags(record) | own,
        run_name=name or f"trial {record.number}",
    )
    return Child(run.info.run_id, done=False, pareto=tags.get("pareto") == "true", far=tags.get("far") == "true")


def full_precision(
    store: Store, experiment_id: str, parent: str, score: str, value: float, objectives: Sequence[str]
) -> None:
    """Give the full-precision model a run, so that it is a black point of the charts; once a study.

    Args:
        store: The MLflow store.
        experiment_id: The study's experiment.
        parent: The study's run.
        score: The task's metric.
        value: The model's value.
        objectives: The metrics on the axes.
    """
    own = f"tags.`{PARENT}` = '{parent}' and tags.role = 'full precision'"
    found = store.client.search_runs([experiment_id], own, max_results=1)
    if found and found[0].info.status == "FINISHED":
        return
    tags = {PARENT: parent, "role": "full precision", "pareto": "whole", "far": "false", COLOUR: WHOLE_COLOUR}
    tags |= {"mlflow.note.content": "The full-precision model that every trial began with; gains are measured from it."}
    name = f"full precision, {label_of(score)} {short(score, value)}"
    # One that a killed writer began is ended.
    run = found[0] if found else store.client.create_run(experiment_id, tags=tags, run_name=name)
    store.client.log_batch(run.info.run_id, whole_metrics(score, value, objectives, run.info.start_time))
    store.client.set_terminated(run.info.run_id)


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


def whole_metrics(score: str, value: float, objectives: Sequence[str], time: int) -> list["Metric"]:
    """What is known of the full-precision model: its score, and gains of nothing.

    MLflow's charts have no lines, and a point at no gain would squeeze the front to the edge of each chart. So one
    chart has it, the score against the first of the gains, and the others do not.

    Args:
        score: The task's metric.
        value: The model's value.
        objectives: What its study optimises.
        time: The time, in milliseconds.

    Returns:
        Metrics for MLflow.
    """
    gains = [name for name in objectives if name in GAINS and name != score]
    values = {name: 0.0 for name in (*gains, *SHOWN)} | {score: value}
    return shown_metrics(values, (*objectives, score), time, percent={str(score), *gains[:1]})


def _metrics(record: TrialRecord, end: int, objectives: Sequence[str]) -> list["Metric"]:
    """The few that a reader compares runs by; front.csv and the study database have all."""
    if record.state == "failed":
        return []
    parts = record.parts if len(record.parts) <= MOST_PARTS else {}
    more = {**parts, "duration_seconds": record.seconds}
    # The trial's own end as the time stamp: MLflow then recognises a metric that is written again.
    return shown_metrics(record.metrics, objectives, end, more)


def shown_metrics(
    values: Mapping[str, float],
    objectives: Sequence[str],
    time: int,
    more: Mapping[str, float] | None = None,
    percent: Collection[str] | None = None,
) -> list["Metric"]:
    """The objectives and the measures that every run shows, fractions in percent too, and sizes in kilobytes.

    Args:
        values: All measures by name.
        objectives: The names of those to show in addition to `SHOWN`.
        time: The time, in milliseconds.
        more: What else is logged, as it is, unless it has the name of a measure.
        percent: The fractions that are logged in percent too; None for all.

    Returns:
        Metrics for MLflow; what is not finite is left out.
    """
    from mlflow.entities import Metric

    named = {str(name): name for name in (*SHOWN, *objectives)}  # an `Objective` knows more than its name
    shown = {name: value for name, value in values.items() if name in named and math.isfinite(value)}
    others = {name: value for name, value in (more or {}).items() if name not in shown and math.isfinite(value)}
    own = [Metric(name, rounded(value), time, 0) for name, value in {**shown, **others}.items()]
    told = [
        Metric(for_chart(named[name]), round(drawn(named[name], value), 2), time, 0)
        for name, value in shown.items()
        if is_fraction(named[name]) and (percent is None or name in percent)
    ]
    sizes = [
        Metric(for_size(name), float(kilobytes(values[name])), time, 0)
        for name in SIZES
        if math.isfinite(values.get(name, math.nan))
    ]
    return told + sizes + own  # in MLflow's order: what people read comes first


def describe_model(store: Store, run_id: str, model: str, note: str) -> None:
    """Give a trial's model the description and the numbers of its run, which its own page would not have.

    Args:
        store: Where MLflow keeps both.
        run_id: The trial's run.
        model: The model's id.
        note: The run's description.
    """
    from mlflow.entities import Metric

    client, run = store.client, store.client.get_run(run_id)
    known, shown = run.data.metrics, [*map(for_size, SIZES), *(name for name in run.data.metrics if " percent" in name)]
    # The run's own time: MLflow then recognises that the run has these metrics already.
    time = run.info.end_time or run.info.start_time
    told = [Metric(name, known[name], time, 0, model_id=model) for name in shown if name in known]
    client.log_batch(run_id, told)
    client.set_logged_model_tags(model, {"mlflow.note.content": note})


def percent(store: Store, run_id: str, name: str, value: float) -> None:
    """Log a fraction in percent, too.

    Args:
        store: The MLflow store.
        run_id: The run id of the run.
        name: The measure; nothing is logged of one that is no fraction.
        value: The fraction.
    """
    if is_fraction(name):
        store.client.log_metric(run_id, for_chart(name), round(drawn(name, value), 2))


def _parameters(record: TrialRecord) -> list["Param"]:
    from mlflow.entities import Param

    values = {"seed": record.seed} | record.parameters
    return [Param(name, str(value)) for name, value in values.items() if value is not None]


def _tags(record: TrialRecord) -> dict[str, str]:
    tags = {"origin": record.origin, "method": record.parameters.get("method"), "reason": record.reason}
    return {name: str(value)[:_LONGEST_TAG] for name, value in tags.items() if value}
