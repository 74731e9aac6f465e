"""Saved views: what makes a study's front visible in MLflow's interface at first sight.

MLflow keeps a view as an experiment tag that its interface reads and no API documents. The keys here are those of
MLflow 3.17, and tests/tracking/test_browser.py opens them in a real browser.
"""

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ttq_plugin.fronts import Objective, is_higher
from ttq_plugin.support.names import in_markdown
from ttq_plugin.tracking.records import TrialRecord
from ttq_plugin.tracking.words import SIZES, for_chart, for_size

TAG = "mlflow.sharedViewState."
_CHARTS, _LINES, _REST = "ttq-front", "ttq-parameters", "ttq-rest"

State = dict[str, Any]
TRIALS, NEAR, FAR = "tags.role = 'trial'", "tags.far = 'false'", "tags.far = 'true'"
# The full-precision model's run is not a trial; its `pareto` is "whole", which sorts above "true" and "false".
MEMBERS = "tags.pareto != 'false'"
_PARAMETERS = "Parameters and what came of them"
# MLflow loads a hundred runs at first: with many trials, full precision and the front must come first.
FRONT_FIRST = "tags.`pareto`"


@dataclass(frozen=True)
class View:
    """What one saved view shows.

    Attributes:
        name: Name in MLflow's list of views.
        condition: MLflow's filter.
        order: What the runs are sorted by.
        pairs: Objectives against each other, a chart each.
        parameters: Axes of the parallel coordinates; None for no such chart.
        columns: The columns of the run table, after the objectives and the method.
        ascending: Whether the least comes first.
    """

    name: str
    condition: str
    order: str
    pairs: tuple[tuple[str, str], ...]
    parameters: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()
    ascending: bool = False


def fragment(experiment_id: str, view: str = "front", mode: str = "CHART") -> str:
    """The part of the address that opens a saved view.

    Args:
        experiment_id: The study's experiment.
        view: A key of what `study_views` gives.
        mode: "CHART", or "TABLE": beside charts the run table shows names and colours only.

    Returns:
        A fragment that starts with "#".
    """
    # Without the workflow type MLflow wraps the page in its menu for language model traces.
    query = f"viewStateShareKey={view}&compareRunsMode={mode}&workflowType=machine_learning"
    return f"#/experiments/{experiment_id}/runs?{query}"


def experiment_tags(
    experiment_id: str,
    name: str,
    records: Sequence[TrialRecord],
    objectives: Sequence[str],
    created: int,
    score: str = "mcc",
    together: str | None = None,
) -> dict[str, str]:
    """Every tag of the experiment that shapes the interface.

    Args:
        experiment_id: The study's experiment.
        name: The study's name, for the note.
        records: The trials; they tell which parameters were searched.
        objectives: The metrics on the axes.
        created: A fixed time in milliseconds, so that the same records give the same tags.
        score: The task's metric.
        together: The address of the page that shows the fronts of the task's studies side by side.

    Returns:
        Tag names and values.
    """
    note = _note(experiment_id, name) + (f", [beside other studies]({together})" if together else "")
    tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": note}
    for key, view in study_views(records, objectives, score).items():
        tags |= packed(key, view, objectives, created)
    return tags


def packed(key: str, view: View, objectives: Sequence[str], created: int) -> dict[str, str]:
    """A view as a tag of an experiment.

    Args:
        key: The word that stands for it in an address.
        view: The saved view.
        objectives: The metrics on the axes.
        created: A time in milliseconds.

    Returns:
        The tag's name and value.
    """
    state = "deflate;" + base64.b64encode(zlib.compress(json.dumps(_state(view, objectives)).encode())).decode()
    return {TAG + key: json.dumps({"name": view.name, "createdAt": created, "updatedAt": created, "state": state})}


def unpacked(tag: str) -> State:
    """What `packed` made of a view, as MLflow reads it.

    Args:
        tag: The tag's value.

    Returns:
        The state of the page.
    """
    state: State = json.loads(zlib.decompress(base64.b64decode(json.loads(tag)["state"].removeprefix("deflate;"))))
    return state


def study_views(records: Sequence[TrialRecord], objectives: Sequence[str], score: str = "mcc") -> dict[str, View]:
    """The views of a study: the front, its members, all trials, a pair of objectives each, a method each.

    Args:
        records: The trials; they tell which methods and parameters were searched.
        objectives: The metrics on the axes.
        score: The task's metric.

    Returns:
        The views by the word that stands for each in an address.
    """
    searched, pairs = tuple(searched_parameters(records)), tuple(combinations(objectives, 2))
    tested = for_chart(score.on_test if isinstance(score, Objective) else f"test_{score}")
    sizes = [for_size(name) for name in SIZES if any(name in record.metrics for record in records)]
    own = [name for name in searched if name != "method"]  # every table has the method already
    settings = (*(f"metrics.`{name}`" for name in [tested, *sizes]), "tags.`origin`", *(f"params.`{n}`" for n in own))
    ends = ("tags.`pareto`", "tags.`reason`", "metrics.`duration_seconds`")
    first, rising = f"metrics.`{for_chart(objectives[0])}`", not is_higher(objectives[0])
    views = {
        "front": View("Trade-off front, near full precision", NEAR, FRONT_FIRST, pairs, searched),
        "front-only": View("Front members only", MEMBERS, first, pairs, searched, settings, ascending=rising),
        "all-trials": View("All trials, failed ones too", TRIALS, FRONT_FIRST, pairs, searched, settings + ends),
        "far-off": View("Trials far from the front", FAR, FRONT_FIRST, pairs, searched, settings),
    }
    if len(pairs) > 1:
        for x, y in pairs:
            names = [for_chart(name).removesuffix(" percent") for name in (x, y)]
            views[f"{x}-{y}"] = View(" against ".join(names), NEAR, FRONT_FIRST, ((x, y),))
    methods = list(
        dict.fromkeys(str(record.parameters["method"]) for record in records if "method" in record.parameters)
    )
    if len(methods) > 1:
        for method in methods:
            by_it = [record for record in records if record.parameters.get("method") == method]
            condition = f"{TRIALS} and tags.method = '{method}'"
            views[f"method-{method}"] = View(
                f"{method}: its parameters", condition, FRONT_FIRST, (), tuple(searched_parameters(by_it))
            )
    return views


def searched_parameters(records: Sequence[TrialRecord]) -> list[str]:
    """Parameters that vary and that every complete trial has.

    The parallel coordinates drop each run that misses one of their axes, so a parameter of one method alone would
    empty the chart.

    Args:
        records: The trials.

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
    far = f"[trials far from it]({fragment(experiment_id, 'far-off', 'TABLE')})"
    return f"{in_markdown(name)}: {front} (red; black is full precision), {members}, {everything}, {far}"


def _state(view: View, objectives: Sequence[str]) -> State:
    columns = [*(f"metrics.`{for_chart(name)}`" for name in objectives), "tags.`method`", *view.columns]
    return {
        "searchFilter": view.condition,
        "orderByKey": view.order,
        "orderByAsc": view.ascending,
        "selectedColumns": columns,
        "columnOrder": ["tags.`mlflow.runName`", "runDateAndNestInfo", *columns, "duration"],
        "runsHiddenMode": "SHOW_ALL",
        "runsHidden": [],
        "runsVisibilityMap": {},
        "compareRunCharts": _charts(view, objectives),
        "compareRunSections": [
            *([_section(_CHARTS, view.name, alone=len(view.pairs) == 1)] if view.pairs else []),
            *([_section(_LINES, _PARAMETERS, alone=True)] if view.parameters is not None else []),
            _section(_REST, "Model metrics", shown=False),
        ],
        "isAccordionReordered": True,
        "autoRefreshEnabled": True,
        "hideEmptyCharts": True,
        "viewMaximized": False,
        "runListHidden": False,
        "groupBy": None,
    }


def _section(uuid: str, name: str, shown: bool = True, alone: bool = False) -> State:
    """One chart has the width of the page; parallel coordinates would have no room for their names otherwise."""
    look = {"display": shown, "columns": 1 if alone else 2, "cardHeight": 600 if alone else 340}
    return {"uuid": uuid, "name": name, "isReordered": True, "deleted": False, "isGenerated": False, **look}


def _charts(view: View, objectives: Sequence[str]) -> list[State]:
    charts: list[State] = []
    for x, y in view.pairs:
        axes = {axis: {"key": for_chart(name), "type": "METRIC"} for axis, name in (("xaxis", x), ("yaxis", y))}
        charts.append(_card(f"front-{x}-{y}", "SCATTER", _CHARTS, **axes))
    if view.parameters is not None:
        # The last axis gives the lines their colour.
        metrics = [for_chart(name) for name in (*objectives[1:], objectives[0])]
        parallel = {"selectedParams": list(view.parameters), "selectedMetrics": metrics, "showAllRuns": False}
        charts.append(_card("parallel", "PARALLEL", _LINES, **parallel))
    return charts


def _card(uuid: str, kind: str, section: str, **settings: object) -> State:
    return {
        "uuid": uuid,
        "type": kind,
        "runsCountToCompare": 1000,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        **settings,
    }
