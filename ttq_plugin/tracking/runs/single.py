"""Runs that stand alone, such as a measurement's: all of one written at once, and FAILED if that fails."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ttq_plugin.errors import InputError
from ttq_plugin.tracking.records import Parameter
from ttq_plugin.tracking.store import Store
from ttq_plugin.tracking.views import TAG

RESERVED = re.compile(r"Default|comparisons|reproduce .*|.* (bench|fronts|sensitivity)", re.IGNORECASE | re.DOTALL)
"""Names of experiments that are not a study's: MLflow's own, and those of this package's other runs."""

AT_ONCE = 100
"""Parameters or tags that MLflow takes in one call."""


@dataclass(frozen=True)
class SingleRun:
    """A run while it is written.

    Attributes:
        store: The MLflow store.
        run_id: Its name there.
        link: Its address; of a local store, a fragment that starts with "#".
        folder: What lies in it at the end becomes the run's artifacts.
    """

    store: Store
    run_id: str
    link: str
    folder: Path

    def log(
        self,
        metrics: Mapping[str, float],
        parameters: Mapping[str, Parameter],
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Metrics, parameters but those that are None, and tags, in parts that MLflow takes."""
        from mlflow.entities import Metric, Param, RunTag

        now = round(1000 * time.time())
        numbers = [Metric(name, value, now, 0) for name, value in metrics.items()]
        words = [Param(name, str(value)) for name, value in parameters.items() if value is not None]
        marks = [RunTag(name, value) for name, value in (tags or {}).items()]
        for part in range(0, max(len(numbers), len(words), len(marks)), AT_ONCE):
            here = slice(part, part + AT_ONCE)
            self.store.client.log_batch(self.run_id, numbers[here], words[here], marks[here])


@contextmanager
def single_run(
    store: Store, experiment: str, name: str | None, tags: Mapping[str, str], note: str
) -> Iterator[SingleRun]:
    """A new run; FINISHED with its artifacts when the block ends, FAILED if it raises.

    Args:
        store: The MLflow store.
        experiment: The experiment's name.
        name: The run's name.
        tags: The tags of the run.
        note: The note, for people, Markdown; empty for none.

    Yields:
        The run.

    Raises:
        InputError: When the experiment was deleted.
    """  # noqa: DOC502 - raised by what it calls
    client, experiment_id = store.client, open_experiment(store, experiment)
    tags = {**tags} | ({"mlflow.note.content": note} if note else {})
    run_id: str = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
    try:
        with tempfile.TemporaryDirectory() as folder:
            link = f"{store.base}#/experiments/{experiment_id}/runs/{run_id}"
            yield SingleRun(store, run_id, link, Path(folder))
            client.log_artifacts(run_id, folder)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")


def check_study_name(name: str) -> None:
    """Refuse a name for a study whose experiment would not be its own.

    Args:
        name: The new study's name.

    Raises:
        InputError: If MLflow or another command has an experiment of that name.
    """
    if RESERVED.fullmatch(name):
        raise InputError(
            f"a study must not be called {name!r}: the experiments Default, comparisons, `reproduce ...`, `... bench`, "
            "`... fronts` and `... sensitivity` hold other runs in MLflow; choose another name."
        )


def open_experiment(store: Store, name: str) -> str:
    """The experiment of that name, made where it is missing; another name where a study has it already."""
    experiment = store.client.get_experiment_by_name(name)
    while experiment is not None and TAG + "front" in experiment.tags:
        name += "~"
        experiment = store.client.get_experiment_by_name(name)
    if experiment is None:
        return str(store.client.create_experiment(name, artifact_location=store.artifacts_of(name)))
    if experiment.lifecycle_stage != "active":
        raise InputError(f"experiment {name!r} must be active in MLflow, got a deleted one; restore it there first.")
    return str(experiment.experiment_id)
