"""The model that a command opens: a file, or a trial of a study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from optuna import Study

from ttq_plugin.commands.parts.lines import running
from ttq_plugin.commands.report import storage_of, store_folder
from ttq_plugin.deploy.source import Source, open_model
from ttq_plugin.errors import InputError
from ttq_plugin.search import keys
from ttq_plugin.search.study.ledger import finished
from ttq_plugin.search.study.study import load_study, stored_space
from ttq_plugin.support.names import file_name, shell, with_options
from ttq_plugin.tasks import check_allowed
from ttq_plugin.tracking import front
from ttq_plugin.tracking.remake import remake


@dataclass(frozen=True)
class Asked:
    """The options of the command line that name the model.

    Attributes:
        model: A file, or the name of a study if ``trial`` is given.
        trial: A trial's number, or None.
        task: The model's task; None for the one that the file or the study names.
        store: MLflow's folder or address.
        storage: The study's database; None for a file in the folder.
        data: The user's data; None for the data that the search used, or the task's own.
        seed: Random seed of the data's splits; None for that of the search or the file.
    """

    model: str
    trial: int | None
    task: str | None
    store: str
    storage: str | None
    data: Path | None
    seed: int | None


def find_model(asked: Asked) -> tuple[Path, str, Source]:
    """Open the model.

    Args:
        asked: The options of the command line.

    Returns:
        The model's file, a name for messages and files, and the opened model.

    Raises:
        InputError: If there is no such model, or its task must be named on the command line.
    """
    if asked.trial is None:
        path = Path(asked.model)
        source = open_model(path, asked.task, data=asked.data, seed=asked.seed, command=running())
        return path, path.name, source
    study = load_study(storage_of(asked.store, asked.storage), asked.model)
    task = _task_of(study, asked)
    path = store_folder(asked.store) / "models" / file_name(asked.model) / f"trial-{asked.trial}.safetensors"
    if not path.is_file():
        raise InputError(_why_missing(study, path, asked))
    told = (study.user_attrs.get(keys.INPUTS) or {}).get("data")
    data = asked.data or (Path(told) if told else None)
    seed = study.user_attrs[keys.SEED] if asked.seed is None else asked.seed
    source = open_model(path, task, data=data, seed=seed, command=running(), signed=True)
    return path, f"{file_name(asked.model)}-trial-{asked.trial}", source


def _task_of(study: Study, asked: Asked) -> str:
    """The task of the study; a task of the user's own must have been named on the command line."""
    task: str = stored_space(study).task
    again = shell(with_options(running(), "--task", task))
    check_allowed(f"the study {asked.model!r}", task, asked.task, again)
    return task


def _why_missing(study: Study, path: Path, asked: Asked) -> str:
    """Explain why a trial has no weights, and what to do."""
    records = finished(study)
    members = front(records, list(study.user_attrs[keys.OBJECTIVES]))
    listed = ", ".join(map(str, sorted(members))) or "no members yet"
    trial = f"trial {asked.trial} of the study {asked.model!r}"
    record = next((record for record in records if record.number == asked.trial), None)
    if record is None:
        return f"There is no finished {trial}; the front has {listed}."
    if record.state != "complete":
        return f"The {trial} has no weights, because it ended as {record.state}; the front has {listed}."
    again = remake(stored_space(study).task, record, study.user_attrs.get(keys.INPUTS))
    if asked.trial in members:
        return f"The weights of {trial} are no longer in {path}; to train them again, run `{again}`."
    return (
        f"The weights of {trial} were removed when another trial dominated it; the front has {listed}. To train "
        f"them again, run `{again}`."
    )
