"""A search as a function, and the study that it leaves, for scripts and notebooks."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ttq_plugin.api import identified
from ttq_plugin.commands.search import Asked, Conducted, conduct
from ttq_plugin.errors import InputError
from ttq_plugin.objective import as_space
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.study.ledger import finished
from ttq_plugin.search.study.study import load_study
from ttq_plugin.support.arguments import check_types
from ttq_plugin.support.names import file_name, in_html
from ttq_plugin.support.weights import load_weights
from ttq_plugin.tasks.task import Task
from ttq_plugin.tracking import TrialRecord

if TYPE_CHECKING:
    import optuna
    import pandas as pd


@dataclass(frozen=True)
class StudyTrial:
    """One finished trial of a study.

    Attributes:
        record: Its settings and its numbers.
        task: The task whose model was compressed.
        path: Its weights, which front members keep.
    """

    record: TrialRecord
    task: Task
    path: Path

    @property
    def number(self) -> int:
        """Its number in the study."""
        return self.record.number

    @property
    def metrics(self) -> dict[str, float]:
        """Its numbers by name, on validation data."""
        return self.record.metrics

    @property
    def parameters(self) -> dict[str, Any]:
        """Its settings; those that its method does not have are left out."""
        return {name: value for name, value in self.record.parameters.items() if value is not None}

    @property
    def model(self) -> nn.Module:
        """The compressed model, in evaluation mode; InputError where its weights are not kept."""
        if not self.path.is_file():
            raise InputError(
                f"Trial {self.number} must be on the front to have weights, but {self.path} does not exist; "
                "`ttq_plugin.compress` trains its model again from its parameters."
            )
        model = self.task.model()
        load_weights(model, self.path)
        return model.eval()


@dataclass(frozen=True)
class Study:
    """A finished or interrupted search.

    Attributes:
        name: The study's name, which `ttq report` and `ttq search --resume` take.
        task: The task whose model was compressed.
        space: The space that was searched.
        storage: Optuna's database URL.
        store: MLflow's folder or address.
        folder: Where weights, pictures and reports lie.
        result: The front and the events of the search, as ``ttq search --json`` prints them.
        interrupted: Whether Ctrl-C ended it.
    """

    name: str
    task: Task = field(repr=False)
    space: Space = field(repr=False)
    storage: str = field(repr=False)
    store: str = field(repr=False)
    folder: Path = field(repr=False)
    result: dict[str, Any] = field(repr=False)
    interrupted: bool = False

    @property
    def front(self) -> pd.DataFrame:
        """The front with one row per member: settings, objectives, other numbers and the test score; best first."""
        import pandas as pd

        rows = [
            {k: v for k, v in row.items() if k not in ("notes", "confirmed", "parts")} for row in self.result["front"]
        ]
        frame = pd.DataFrame(rows)
        return frame.set_index("trial") if len(frame) else frame

    @property
    def trials(self) -> pd.DataFrame:
        """All finished trials, one row each: state, origin, settings, numbers, and the reason of a failure."""
        import pandas as pd

        rows = [
            {"trial": r.number, "state": r.state, "origin": r.origin, **r.parameters, **r.metrics, "reason": r.reason}
            for r in self.records
        ]
        frame = pd.DataFrame(rows)
        return frame.set_index("trial") if len(frame) else frame

    @property
    def records(self) -> list[TrialRecord]:
        """All finished trials."""
        return finished(self.optuna)

    @property
    def picture(self) -> Path:
        """Path of the picture of the front, if the front has members."""
        return self.folder / "fronts" / f"{file_name(self.name)}.png"

    @property
    def optuna(self) -> optuna.Study:
        """The Optuna study; its values are all better when higher (see ``ttq_plugin.fronts.upward``)."""
        found: optuna.Study = load_study(self.storage, self.name)
        return found

    def trial(self, number: int) -> StudyTrial:
        """One finished trial.

        Args:
            number: Its number.

        Returns:
            The trial, with its model if it is on the front.

        Raises:
            InputError: If there is no finished trial of that number.
        """
        records = {record.number: record for record in self.records}
        if number not in records:
            known = ", ".join(map(str, sorted(records))) or "none yet"
            raise InputError(f"The study {self.name!r} has no finished trial {number}; it has {known}.")
        path = self.folder / "models" / file_name(self.name) / f"trial-{number}.safetensors"
        return StudyTrial(records[number], self.task, path)

    def report(self, path: str | Path | None = None, *, floor: float | None = None) -> Path:
        """Write the study as one HTML page that opens without a server.

        Args:
            path: The page; None for reports/STUDY.html in the store's folder.
            floor: Lowest acceptable score of the recommended member; for an error metric, the highest.

        Returns:
            Path of the page.
        """
        from ttq_plugin.commands.report import write_report

        target = None if path is None else Path(path)
        return Path(write_report(self.name, self.store, self.storage, floor, target)["report"])

    def _repr_html_(self) -> str:
        """What a notebook shows: the picture of the front, if it was drawn, and its table."""
        shown = self.front
        picture = ""
        if self.picture.is_file():
            code = base64.b64encode(self.picture.read_bytes()).decode()
            picture = f'<img alt="The trade-off front." style="max-width: 100%" src="data:image/png;base64,{code}">'
        members = "1 member" if len(shown) == 1 else f"{len(shown)} members"
        return f"<p>{in_html(self.name)}: {members} on the front</p>{picture}{shown.to_html(max_rows=60)}"


def search(
    task: str | Task,
    space: Space | str | Path | None = None,
    *,
    trials: int | None = None,
    workers: int | None = None,
    study: str | None = None,
    resume: str | None = None,
    methods: Sequence[str] = (),
    objectives: Sequence[str] = (),
    constraints: Sequence[str] = (),
    sampler: str | None = None,
    timeout: float | None = None,
    halving: bool = False,
    seed: int | None = None,
    data: Path | str | None = None,
    cache: Path | str | None = None,
    device: str = "cpu",
    weights: Path | str | None = None,
    retrain: bool = False,
    store: str | Path = "mlflow_runs",
    storage: str | None = None,
) -> Study:
    """Search ternary compressions of a task's model in worker processes, and record the trade-off front in MLflow.

    In a script, call it under ``if __name__ == "__main__":``, because Python runs the script once more in every worker.

    Args:
        task: A task, the name of a built-in one, or ``module:attribute``.
        space: What is searched: a ``Space``, a space file, or None for the task's default.
        trials: How many trials in all; None for the space's number.
        workers: Number of processes; None for one per core.
        study: The new study's name; None for the task's name and the time.
        resume: The name of a study to continue.
        methods: Search these methods of the space only.
        objectives: Two or more quantities, instead of the space's.
        constraints: Limits such as "macro_f1 >= 0.8", instead of the space's.
        sampler: ``tpe``, ``gp``, ``nsga2``, ``random`` or ``grid``; None for the space's.
        timeout: Seconds after which no trial begins.
        halving: Whether to stop trials early by successive halving, whatever the space says.
        seed: Random seed shared by all trials.
        data: The user's data file, for tasks that read one.
        cache: Folder of trained full-precision models; None for the user's cache folder.
        device: Torch's name of the device to train on.
        weights: A safetensors file with the full-precision weights.
        retrain: Whether to train the full-precision model again, whatever is in the cache.
        store: MLflow folder, or a server's address.
        storage: Optuna's database URL; None for a file in the store's folder.

    Returns:
        The study: its front, its trials and their models, and its report.

    Raises:
        InputError: If task, space or an option cannot be used; nothing has been trained then.
        RuntimeError: If the search could not go on; finished trials are kept, and ``resume`` continues it.

    Examples:
        >>> import ttq_plugin
        >>> study = ttq_plugin.search("mnist-cnn", trials=2, workers=1)  # doctest: +SKIP
        >>> study.front[["mcc", "cr_gain_total"]]  # doctest: +SKIP
    """  # noqa: DOC502 - raised by what it calls
    check_types(search, locals())
    described = identified(task)
    asked = Asked(
        space=space if isinstance(space, str) else described.name,
        task=described.name if isinstance(space, str) else None,
        store=str(store),
        storage=storage,
        study=study,
        resume=resume,
        trials=trials,
        workers=workers,
        methods=list(methods),
        objectives=",".join(objectives) or None,
        constraints=list(constraints),
        sampler=sampler,
        timeout=timeout,
        halving=halving,
        seed=seed,
        data=None if data is None else Path(data),
        cache=None if cache is None else Path(cache),
        device=device,
        weights=None if weights is None else Path(weights),
        retrain=retrain,
    )
    found = conduct(asked, described if isinstance(task, Task) else None, as_space(described, space, asked.changes))
    if found.summary.error:
        raise RuntimeError(found.summary.error)
    return _left_by(found, described)


def _left_by(found: Conducted, task: Task) -> Study:
    """The study that a search has left."""
    opened = found.opened
    return Study(
        name=opened.name,
        task=task,
        space=opened.space,
        storage=opened.storage,
        store=opened.asked.store,
        folder=opened.asked.folder,
        result=found.result,
        interrupted=found.summary.interrupted,
    )
