"""Measured costs in MLflow: one experiment a task, one run a measurement."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ttq_plugin.tracking.bench_picture import plot_bench
from ttq_plugin.tracking.children import rounded
from ttq_plugin.tracking.records import Parameter
from ttq_plugin.tracking.sensitivity import open_experiment
from ttq_plugin.tracking.store import Store


def record_bench(
    store: Store, task: str, result: Mapping[str, Any], parameters: Mapping[str, Parameter], title: str
) -> str:
    """Log a measurement as one run of the experiment `<task> bench`: numbers, picture, JSON.

    Args:
        store: where MLflow keeps it.
        task: the task's name.
        result: from ``ttq_plugin.deploy.bench.bench``.
        parameters: of the run, such as the file and the processor.
        title: the run's name, and the picture's title.

    Returns:
        The address of the run; of a local store, a fragment that starts with "#".

    Raises:
        InputError: when the experiment was deleted.
    """  # noqa: DOC502 - raised by what it calls
    from mlflow.entities import Metric, Param

    client = store.client
    experiment_id = open_experiment(store, f"{task} bench")
    notes = "\n".join(f"- {note}" for note in result["notes"])
    tags = {"role": "bench", "task": task} | ({"mlflow.note.content": notes} if notes else {})
    run_id: str = client.create_run(experiment_id, tags=tags, run_name=title).info.run_id
    try:
        now = round(1000 * time.time())
        metrics = [Metric(name, rounded(value), now, 0) for name, value in _metrics(result)]
        params = [Param(name, str(value)) for name, value in parameters.items() if value is not None]
        client.log_batch(run_id, metrics, params)
        with tempfile.TemporaryDirectory() as folder:
            client.log_artifact(run_id, str(plot_bench(result, Path(folder) / "bench.png", title)))
            path = Path(folder) / "bench.json"
            path.write_text(json.dumps(result, indent=2) + "\n")
            client.log_artifact(run_id, str(path))
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
    return f"{store.base}#/experiments/{experiment_id}/runs/{run_id}"


def _metrics(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """`<quantity>/<form>`, and `<quantity>/<form>/batch <size>` for what depends on the batch."""
    for row in result["forms"]:
        for name in ("file_bytes", "peak_memory_bytes", "max_relative_difference", "mcc"):
            if row[name] is not None:
                yield f"{name}/{row['form']}", row[name]
        for measured in row["batches"]:
            place = f"{row['form']}/batch {measured['batch']}"
            for name in ("latency_median", "latency_p99", "throughput", "joules"):
                if measured[name] is not None:
                    yield f"{name}/{place}", measured[name]
            yield f"speedup_torch/{place}", measured["speedup_torch"][1]
