"""A curvature analysis in MLflow: one experiment a task, one run an analysis."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ttq_plugin.support.names import markdown_list, metric_key
from ttq_plugin.tracking.children import rounded
from ttq_plugin.tracking.pictures.sensitivity import plot_sensitivity
from ttq_plugin.tracking.records import Parameter
from ttq_plugin.tracking.runs.single import single_run
from ttq_plugin.tracking.store import Store

TOTALS = ("share", "sensitivity", "sensitivity_error", "gap", "bits", "bits_fp32", "energy", "energy_fp32")


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
        store: The MLflow store.
        task: The task's name.
        selection: A curvature selection as a dictionary (`Selection.to_dict()`).
        config: What `ttq compress --config` takes: NNI's config list, or a chain.
        parameters: The parameters of the run, such as seed, methods and budget.
        title: The run's name, and the picture's title.

    Returns:
        The address of the run; of a local store, a fragment that starts with "#".

    Raises:
        InputError: When the experiment was deleted.
    """  # noqa: DOC502 - raised by what it calls
    notes = markdown_list(selection["notes"])
    tags = {"role": "sensitivity", "task": task}
    with single_run(store, f"{task} sensitivity", title, tags, notes) as run:
        methods = {f"method.{metric_key(layer)}": method for layer, method in selection["methods"].items()}
        run.log({name: rounded(value) for name, value in _metrics(selection)}, parameters or {}, methods)
        plot_sensitivity(selection, run.folder / "sensitivity.png", title)
        for name, value in (("config.json", config), ("sensitivity.json", selection)):
            (run.folder / name).write_text(json.dumps(value, indent=2) + "\n")
    return run.link


def _metrics(selection: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The totals, each layer's trace, and each of its methods' sensitivity, with their standard errors."""
    for name in TOTALS:
        if selection[name] is not None:
            yield name, selection[name]
    for trace in selection["traces"]:
        layer = metric_key(trace["name"])
        yield f"trace/{layer}", trace["trace"]
        yield f"trace_error/{layer}", trace["standard_error"]
    for row in selection["table"]:
        for option in row["options"]:
            place = f"{metric_key(row['layer'])}/{option['method']}"
            yield f"sensitivity/{place}", option["sensitivity"]
            yield f"sensitivity_error/{place}", option["standard_error"]
