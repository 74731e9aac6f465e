"""A study's experiment in MLflow and the one run in it that stands for the study itself."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ttq_plugin.errors import InputError
from ttq_plugin.tracking import children
from ttq_plugin.tracking.records import Parameter
from ttq_plugin.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run


def experiment_of(store: Store, study_name: str) -> str:
    """The id of the study's experiment, which is made if there is none.

    Args:
        store: The MLflow store.
        study_name: The experiment's name.

    Returns:
        The experiment's id.

    Raises:
        InputError: If the experiment was deleted.
    """
    experiment = store.client.get_experiment_by_name(study_name)
    if experiment is None:
        location = store.artifacts_of(study_name)
        return str(store.client.create_experiment(study_name, artifact_location=location))
    if experiment.lifecycle_stage != "active":
        raise InputError(
            f"study {study_name!r} must be active in MLflow, got a deleted one; restore it there, or name another study"
        )
    return str(experiment.experiment_id)


def open_run(
    store: Store, experiment_id: str, study_name: str, objectives: Sequence[str], tags: Mapping[str, str]
) -> "Run":
    """The study's run, made or opened again.

    Args:
        store: The MLflow store.
        experiment_id: The study's experiment.
        study_name: The run's name.
        objectives: Names of the study's objectives, which a new run gets as a tag.
        tags: More tags of the run.

    Returns:
        The run as MLflow knew it before the tags.
    """
    client = store.client
    found = client.search_runs(
        [experiment_id], "tags.role = 'study'", order_by=["attributes.start_time ASC"], max_results=1
    )
    if not found:
        own = {"role": "study", "objectives": ",".join(objectives), children.COLOUR: children.REST_COLOUR}
        return client.create_run(experiment_id, tags=own | dict(tags), run_name=study_name)
    run = found[0]
    client.update_run(run.info.run_id, status="RUNNING")
    tag_run(store, run.info.run_id, tags)
    return run


def log_parameters(store: Store, run: "Run", parameters: Mapping[str, Parameter]) -> None:
    """Log the study's parameters; one that a resumed search changed becomes a tag, for MLflow never changes parameters.

    Args:
        store: The MLflow store.
        run: The study's run.
        parameters: Values by name; those that are None are left out.
    """
    from mlflow.entities import Param

    values = {name: str(value) for name, value in parameters.items() if value is not None}
    known = run.data.params
    new = [Param(name, value) for name, value in values.items() if name not in known]
    store.client.log_batch(run.info.run_id, params=new)
    changed = {name: value for name, value in values.items() if known.get(name, value) != value}
    tag_run(store, run.info.run_id, {f"resumed.{name}": value for name, value in changed.items()})


def describe(store: Store, run_id: str, note: str) -> None:
    """Set the description of the study's run, unless a person wrote another one there."""
    known = store.client.get_run(run_id).data.tags.get("mlflow.note.content", "")
    if not known or known.split(":")[0] == note.split(":")[0]:
        tag_run(store, run_id, {"mlflow.note.content": note})


def tag_run(store: Store, run_id: str, tags: Mapping[str, str]) -> None:
    """Set a run's tags, in one call."""
    from mlflow.entities import RunTag

    if tags:
        store.client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])
