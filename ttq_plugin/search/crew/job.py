"""What a worker is told to do, and what it needs of the code that runs a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ttq_plugin.search.crew.patience import PATIENCE
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.study.storage import HEARTBEAT


class TrialCode(Protocol):
    """What a worker needs of `ttq_plugin.trial.run`; the tests put a module with analytic objectives in its place."""

    def Settings(self, **keywords: Any) -> Any:
        """One compression's settings."""

    def prepare(self, task: str, **keywords: Any) -> Any:
        """What every trial of this worker shares: data, full-precision model, Hessian traces."""

    def run(self, prepared: Any, settings: Any, **hooks: Any) -> Any:
        """One compression; its outcome has metrics, notes, seconds and model.

        With the hook `on_look` it shows its training after each epoch, see `early.Look`.
        """

    def save_weights(self, model: Any, path: Path, metadata: Mapping[str, str] | None = None) -> None:
        """Writes the model's weights and words about them, all or nothing."""


@dataclass(frozen=True)
class Job:
    """What a worker is to do; it travels to the worker's process, so every part can be pickled.

    Attributes:
        storage: the database URL; it may hold a password, so it is not shown.
        study_name: the study's name.
        space: what is searched.
        target: how many trials count in all, unless the study says another number by now.
        seed: of every trial.
        data: handed to the task.
        device: handed to the task.
        cache: handed to the task.
        models_dir: where the weights of complete trials are saved; None to send them to the search if it wants them.
        trial_module: the module that runs trials.
        worker: the worker's name.
        heartbeat: seconds between two signs of life.
        patience: seconds to wait for a database or disk that fails.
        task: the task itself, made by `cloudpickle` for a child process of this machine, where it has no name that a
            child could import, as in a notebook; it never lies in a file or a database.
        release: the study's, which must be the worker's own; None where it cannot differ.
        weights: the user's own full-precision weights; None where the task's recipe trains them.
        fingerprint: of the data that the search has; a worker whose task loads others ends. None to take any.
    """

    storage: str = field(repr=False)
    study_name: str
    space: Space
    target: int
    seed: int
    data: str | None = None
    device: str = "cpu"
    cache: str | None = None
    models_dir: str | None = None
    trial_module: str = "ttq_plugin.trial.run"
    worker: str = ""
    heartbeat: int = HEARTBEAT
    patience: float = PATIENCE
    release: str | None = None
    task: bytes | None = None
    weights: str | None = None
    fingerprint: str | None = None


def as_text(path: str | Path | None) -> str | None:
    """A path as a job holds it."""
    return None if path is None else str(path)
