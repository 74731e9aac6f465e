"""Measured costs in MLflow: one experiment a task, one run a measurement."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ttq_plugin.support.names import markdown_list
from ttq_plugin.tracking.children import rounded
from ttq_plugin.tracking.pictures.bench import plot_bench
from ttq_plugin.tracking.records import Parameter
from ttq_plugin.tracking.runs.single import single_run
from ttq_plugin.tracking.store import Store


def record_bench(
    store: Store, task: str, result: Mapping[str, Any], parameters: Mapping[str, Parameter], title: str
) -> str:
    """Log a measurement as one run of the experiment `<task> bench`: numbers, picture, JSON.

    Args:
        store: The MLflow store.
        task: The task's name.
        result: What ``ttq_plugin.deploy.bench.bench.bench`` returned.
        parameters: The parameters of the run, such as the file and the processor.
        title: The run's name, and the picture's title.

    Returns:
        The address of the run; of a local store, a fragment that starts with "#".

    Raises:
        InputError: When the experiment was deleted.
    """  # noqa: DOC502 - raised by what it calls
    notes = markdown_list(result["notes"])
    with single_run(store, f"{task} bench", title, {"role": "bench", "task": task}, notes) as run:
        run.log({name: rounded(value) for name, value in _metrics(result)}, parameters)
        plot_bench(result, run.folder / "bench.png", title)
        (run.folder / "bench.json").write_text(json.dumps(result, indent=2) + "\n")
    return run.link


def _metrics(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """`<quantity>/<form>`, and `<quantity>/<form>/batch <size>` for what depends on the batch."""
    for row in result["forms"]:
        for name in ("file_bytes", "peak_memory_bytes", "max_relative_difference", result["metric"]):
            if row[name] is not None:
                yield f"{name}/{row['form']}", row[name]
        for measured in row["batches"]:
            place = f"{row['form']}/batch {measured['batch']}"
            for name in ("latency_median", "latency_p99", "throughput", "joules"):
                if measured[name] is not None:
                    yield f"{name}/{place}", measured[name]
            yield f"speedup_torch/{place}", measured["speedup_torch"][1]
