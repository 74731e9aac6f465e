"""Saved views: what makes a study's front visible in MLflow's interface at first sight.

MLflow keeps a view as an experiment tag that its interface reads and no API documents. The keys here are those of
MLflow 3.17, and tests/tracking/test_browser.py opens them in a real browser.
"""

import base64
import json
import zlib
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from ttq_plugin.tracking.records import TrialRecord

TAG = "mlflow.sharedViewState."
# view id -> (its name in the interface, its filter)
VIEWS = {
    "front": ("Trade-off front", "tags.role = 'trial'"),
    "front-only": ("Front members only", "tags.pareto = 'true'"),
    "all-trials": ("All trials, failed ones too", "tags.role = 'trial'"),
}
_CHARTS, _REST = "ttq-front", "ttq-rest"

State = dict[str, Any]


def fragment(experiment_id: str, view: str = "front", mode: str = "CHART") -> str:
    """The part of the address that opens a saved view.

    Args:
        experiment_id: the study's experiment.
        view: a key of `VIEWS`.
        mode: "CHART", or "TABLE": beside charts the run table shows names and colours only.

    Returns:
        A fragment that starts with "#".
    """
    # Without the workflow type MLflow wraps the page in its menu for language model traces.
    query = f"viewStateShareKey={view}&compareRunsMode={mode}&workflowType=machine_learning"
    return f"#/experiments/{experiment_id}/runs?{query}"


def experiment_tags(
    experiment_id: str, name: str, records: Sequence[TrialRecord], objectives: Sequence[str], created: int
) -> dict[str, str]:
    """Every tag of the experiment that shapes the interface.

    Args:
        experiment_id: the study's experiment.
        name: the study's name, for the note.
        records: the trials; they tell which parameters were searched.
        objectives: the metrics on the axes, all maximised.
        created: a fixed time in milliseconds, so that the same records give the same tags.

    Returns:
        Tag names and values.
    """
    searched = searched_parameters(records)
    tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": _note(experiment_id, name)}
    for view, (label, condition) in VIEWS.items():
        state = _state(view, condition, objectives, searched)
        packed = "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
        envelope = {"name": label, "createdAt": created, "updatedAt": created, "state": packed}
        tags[TAG + view] = json.dumps(envelope)
    return tags


def searched_parameters(records: Sequence[TrialRecord]) -> list[str]:
    """Parameters that vary and that every complete trial has.

    The parallel coordinates drop each run that misses one of their axes, so a parameter of one method alone would
    empty the chart.

    Args:
        records: the trials.

    Returns:
        Their names, in the order of the records.
    """
    complete = [record.parameters for record in records if record.state == "complete"]
    names = list(dict.fromkeys(name for parameters in complete for name in parameters))
    shared = [name for name in names if all(parameters.get(name) is not None for parameters in complete)]
    return [name for name in shared if len({parameters[name] for parameters in complete}) > 1]


def _note(experiment_id: str, name: str) -> str:
    """One line: MLflow folds the rest of a longer note away."""
    front = f"[Trade-off front]({fragment(experiment_id)})"
    members = f"[front members as a table]({fragment(experiment_id, 'front-only', 'TABLE')})"
    everything = f"[all trials]({fragment(experiment_id, 'all-trials', 'TABLE')})"
    return f"{name}: {front} (red), {members}, {everything}"


def _state(view: str, condition: str, objectives: Sequence[str], searched: Sequence[str]) -> State:
    columns = [f"metrics.`{name}`" for name in objectives] + ["tags.`method`"]
    if view != "front":
        columns += ["metrics.`test_mcc`", "tags.`origin`"] + [f"params.`{name}`" for name in searched]
    if view == "all-trials":
        columns += ["tags.`pareto`", "tags.`reason`", "metrics.`duration_seconds`"]
    return {
        "searchFilter": condition,
        "orderByKey": f"metrics.`{objectives[0]}`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": ["tags.`mlflow.runName`", "runDateAndNestInfo", *columns, "duration"],
        "runsHiddenMode": "SHOW_ALL",
        "runsHidden": [],
        "runsVisibilityMap": {},
        "compareRunCharts": _charts(objectives, searched),
        "compareRunSections": [
            _section(_CHARTS, "Trade-off front", display=True),
            _section(_REST, "Model metrics", display=False),
        ],
        "isAccordionReordered": True,
        "autoRefreshEnabled": True,
        "hideEmptyCharts": True,
        "viewMaximized": False,
        "runListHidden": False,
        "groupBy": None,
    }


def _section(uuid: str, name: str, display: bool) -> State:
    look = {"display": display, "columns": 2, "cardHeight": 340}
    return {"uuid": uuid, "name": name, "isReordered": True, "deleted": False, "isGenerated": False, **look}


def _charts(objectives: Sequence[str], searched: Sequence[str]) -> list[State]:
    charts: list[State] = []
    for x, y in combinations(objectives, 2):
        axes = {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}
        charts.append(_card(f"front-{x}-{y}", "SCATTER", **axes))
    # The last axis gives the lines their colour.
    metrics = [*objectives[1:], objectives[0]]
    parallel = {"selectedParams": list(searched), "selectedMetrics": metrics, "showAllRuns": False}
    charts.append(_card("parallel", "PARALLEL", **parallel))
    return charts


def _card(uuid: str, kind: str, **settings: object) -> State:
    return {
        "uuid": uuid,
        "type": kind,
        "runsCountToCompare": 1000,
        "metricSectionId": _CHARTS,
        "deleted": False,
        "isGenerated": False,
        **settings,
    }
