"""An objective for your own Optuna study, in which each trial is one compression."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna

import ttq_plugin.trial.run as code
from ttq_plugin.api import identified, train
from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.search import keys
from ttq_plugin.search.crew.attempt import Attempt, attempt
from ttq_plugin.search.space.defaults import default_text
from ttq_plugin.search.space.load import built_in, load_space, parse_space
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.study.ledger import finished
from ttq_plugin.support.arguments import check_types
from ttq_plugin.tasks.task import Task
from ttq_plugin.tracking import StudyRecorder, TrialRecord, open_store
from ttq_plugin.tracking.remake import inputs_of, remake


class TernaryObjective:
    """An objective for ``optuna.Study.optimize`` that draws settings, compresses the task's model and scores it.

    All objectives are maximised, so every direction of the study is ``maximize``: a metric that is better when lower is
    returned as a number that rises as it falls (see ``ttq_plugin.fronts.upward``), and recorded as it is. Trainings of
    several threads take turns, because torch's random numbers are shared by all of them.

    Args:
        task: A task, the name of a built-in one, or ``module:attribute``.
        space: What is searched: a ``Space``, a space file, or None for the task's default.
        seed: Random seed shared by all trials; None for the space's seed.
        data: The user's data file, for tasks that read one.
        cache: Folder of trained full-precision models; None for the user's cache folder.
        device: Torch's name of the device to train on.
        weights: A safetensors file with the full-precision weights.
        store: MLflow folder or a server's address that trials are recorded in; None to record nothing.
        show: Whether to show a progress bar while the full-precision model is trained.

    Raises:
        InputError: If task or space cannot be used, or the study does not maximise each objective.

    Examples:
        >>> import optuna
        >>> from ttq_plugin import TernaryObjective
        >>> objective = TernaryObjective("mnist-cnn", store=None, show=False)
        >>> study = optuna.create_study(directions=["maximize"] * len(objective.space.objectives))
        >>> study.optimize(objective, n_trials=1)
        >>> len(study.best_trials)
        1
    """

    def __init__(
        self,
        task: str | Task,
        space: Space | str | Path | None = None,
        *,
        seed: int | None = None,
        data: Path | str | None = None,
        cache: Path | str | None = None,
        device: str = "cpu",
        weights: Path | str | None = None,
        store: str | Path | None = "mlflow_runs",
        show: bool = True,
    ) -> None:
        check_types(TernaryObjective.__init__, locals())
        self.task = identified(task)
        self.space = as_space(self.task, space)
        self.seed = self.space.seed if seed is None else seed
        places: dict[str, Any] = {"data": data, "cache": cache, "device": device, "weights": weights}
        self.prepared = train(self.task, seed=self.seed, curvature=True, show=show, **places).prepared
        self._inputs = inputs_of(data, cache, weights, device)
        self._store = None if store is None else open_store(store)
        self._recorders: dict[str, StudyRecorder] = {}
        self._turn = threading.Lock()

    def __call__(self, trial: optuna.Trial) -> Sequence[float]:
        """Run one trial.

        Args:
            trial: Optuna's trial.

        Returns:
            The objectives in the space's order, all better when higher; NaN, which fails the trial, where the training
            diverged.
        """
        self._check_directions(trial.study)
        with self._turn:
            return self._run(trial)

    def _run(self, trial: optuna.Trial) -> Sequence[float]:
        begun = time.time()
        settings = self.space.settings(self.space.suggest(trial), self.seed)
        given = {name: value for name, value in settings.items() if value is not None and name != "task"}
        told: dict[str, Any] = {
            keys.ORIGIN: "search",
            keys.SEED: self.seed,
            keys.STARTED: begun,
            keys.PARAMETERS: given,
        }
        found: Attempt | None = None
        try:
            found = attempt(self.space, code, self.prepared, settings)
            curve = [float(f"{loss:.6g}") for loss in found.outcome.losses]
            told |= {
                keys.METRICS: found.metrics,
                keys.NOTES: found.notes,
                keys.PARTS: found.parts,
                keys.CURVES: {"loss": curve},
            }
            for text, violation in found.limits.items():
                trial.set_constraint(text, violation)
        except Diverged as error:
            told |= {keys.REASON: f"diverged: {error}", keys.DIVERGED: True}
        told[keys.SECONDS] = time.time() - begun
        for name, value in told.items():
            trial.set_user_attr(name, value)
        self._record(trial, told, found)
        return found.values if found else [math.nan] * len(self.space.objectives)

    def _record(self, trial: optuna.Trial, told: dict[str, Any], found: Attempt | None) -> None:
        """This trial, which Optuna has not closed yet, and those before it."""
        if self._store is None:
            return
        name = trial.study.study_name
        if name not in self._recorders:
            facts: dict[str, int | float | str | None]
            facts = {"task": self.task.name, "seed": self.seed, f"{self.space.score}_fp32": self.prepared.score}
            tags = {"task": self.task.name} | ({"simulated": "true"} if self.prepared.simulated else {})
            score, again = self.space.score, partial(remake, self.task.name, inputs=self._inputs)
            self._recorders[name] = StudyRecorder(self._store, name, self.space.objectives, facts, tags, score, again)
        own = {key: value for key, value in told.items() if key != keys.DIVERGED}
        violated = [text for text, value in found.limits.items() if value > 0] if found else []
        record = TrialRecord(
            number=trial.number,
            state="complete" if found else "failed",
            violated=violated,
            **{"metrics": {}, **own},
        )
        before = [row for row in finished(trial.study) if row.number != trial.number]
        self._recorders[name].sync([*before, record])

    def _check_directions(self, study: optuna.Study) -> None:
        directions = [direction.name.lower() for direction in study.directions]
        if directions != ["maximize"] * len(self.space.objectives):
            raise InputError(
                f"The study must maximise {len(self.space.objectives)} objectives "
                f"({', '.join(self.space.objectives)}), got {', '.join(directions)}; create it with "
                f"directions=['maximize'] * {len(self.space.objectives)}."
            )


def as_space(task: Task, space: Space | str | Path | None, changes: Mapping[str, Any] | None = None) -> Space:
    """What is searched.

    Args:
        task: The task whose models are compressed.
        space: A space, a space file's path or name, or None for the task's default.
        changes: Keys of the space that are to have other values, as ``load_space`` takes them.

    Returns:
        The space.

    Raises:
        InputError: If the space is another task's.
    """
    if space is None and task.name not in built_in():
        return parse_space(default_text(task), f"the default space of {task.name}", changes)
    if isinstance(space, Space):
        found = parse_space(space.text, "the space", changes)
    else:
        found = load_space(task.name if space is None else space, changes, task=task.name)
    if found.task != task.name:
        raise InputError(f"The space must be for the task {task.name}, got one for {found.task}; change its task.")
    return found
