"""A curvature analysis in MLflow: one experiment a task, one run an analysis."""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ttq_plugin.errors import InputError
from ttq_plugin.tracking.children import rounded
from ttq_plugin.tracking.records import Parameter
from ttq_plugin.tracking.sensitivity_picture import plot_sensitivity
from ttq_plugin.tracking.store import Store

TOTALS = ("share", "sensitivity", "sensitivity_error", "gap", "bits", "bits_fp32", "energy", "energy_fp32")
AT_ONCE = 100
"""Parameters or tags that MLflow takes in one call."""


def record_sensitivity(
    store: Store,
    task: str,
    selection: Mapping[str, Any],
    config: object,
    parameters: Mapping[str, Parameter] | None = None,
    title: str | None = None,
) -> str:
    """Log a selection as one run of the experiment `<task> sensitivity`: numbers, picture, config.

    Args:
        store: where MLflow keeps it.
        task: the task's name.
        selection: a curvature selection as a dictionary (`Selection.to_dict()`).
        config: what `ttq compress --config` takes: NNI's config list, or a chain.
        parameters: of the run, such as seed, methods and budget.
        title: the run's name, and the picture's title.

    Returns:
        The address of the run; of a local store, a fragment that starts with "#".

    Raises:
        InputError: when the experiment was deleted.
    """
    client = store.client
    experiment_id = open_experiment(store, f"{task} sensitivity")
    notes = "\n".join(f"- {note}" for note in selection["notes"])
    tags = {"role": "sensitivity", "task": task} | ({"mlflow.note.content": notes} if notes else {})
    run_id: str = client.create_run(experiment_id, tags=tags, run_name=title).info.run_id
    try:
        _log_numbers(store, run_id, selection, parameters or {})
        with tempfile.TemporaryDirectory() as folder:
            client.log_artifact(run_id, str(plot_sensitivity(selection, Path(folder) / "sensitivity.png", title)))
            for name, value in (("config.json", config), ("sensitivity.json", selection)):
                (Path(folder) / name).write_text(json.dumps(value, indent=2) + "\n")
                client.log_artifact(run_id, str(Path(folder) / name))
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
    return f"{store.base}#/experiments/{experiment_id}/runs/{run_id}"


def _log_numbers(store: Store, run_id: str, selection: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> None:
    """Parameters, each layer's method as a tag, and metrics, in parts that MLflow takes."""
    from mlflow.entities import Metric, Param, RunTag

    now = round(1000 * time.time())
    params = [Param(name, str(value)) for name, value in parameters.items() if value is not None]
    tags = [RunTag(f"method.{layer}", method) for layer, method in selection["methods"].items()]
    metrics = [Metric(name, rounded(value), now, 0) for name, value in _metrics(selection)]
    for part in range(0, max(len(params), len(tags), len(metrics)), AT_ONCE):
        here = slice(part, part + AT_ONCE)
        store.client.log_batch(run_id, metrics[here], params[here], tags[here])


def open_experiment(store: Store, name: str) -> str:
    """The experiment of that name, made where it is missing."""
    experiment = store.client.get_experiment_by_name(name)
    if experiment is None:
        location = f"{store.artifacts}/{quote(name, safe='')}" if store.artifacts else None
        return str(store.client.create_experiment(name, artifact_location=location))
    if experiment.lifecycle_stage != "active":
        raise InputError(f"experiment {name!r} must be active in MLflow, got a deleted one; restore it there first.")
    return str(experiment.experiment_id)


def _metrics(selection: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The totals, each layer's trace, and each of its methods' sensitivity, with their standard errors."""
    for name in TOTALS:
        if selection[name] is not None:
            yield name, selection[name]
    for trace in selection["traces"]:
        yield f"trace/{trace['name']}", trace["trace"]
        yield f"trace_error/{trace['name']}", trace["standard_error"]
    for row in selection["table"]:
        for option in row["options"]:
            yield f"sensitivity/{row['layer']}/{option['method']}", option["sensitivity"]
            yield f"sensitivity_error/{row['layer']}/{option['method']}", option["standard_error"]
