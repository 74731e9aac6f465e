"""The job of a worker, and the interface of the code that runs a trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ttq_plugin.search.crew.patience import PATIENCE
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.study.storage import HEARTBEAT


class Hopeless(RuntimeError):
    """The search cannot succeed, and the message says why."""


class TrialCode(Protocol):
    """What a worker needs of `ttq_plugin.trial.run`; the tests put a module with analytic objectives in its place."""

    @property
    def Settings(self) -> Callable[..., Any]:
        """One compression's settings."""

    @property
    def prepare(self) -> Callable[..., Any]:
        """What every trial of this worker shares: data, full-precision model, Hessian traces."""

    @property
    def run(self) -> Callable[..., Any]:
        """One compression; its outcome has metrics, notes, seconds and model.

        With the hook `on_look` it shows its training after each epoch, see `early.Look`.
        """

    @property
    def save_weights(self) -> Callable[[Any, Path, Mapping[str, str] | None], None]:
        """Writes the model's weights and words about them, all or nothing."""


@dataclass(frozen=True)
class Job:
    """What a worker is to do. It travels to the worker's process, so every part can be pickled.

    Attributes:
        storage: Database URL. It may hold a password, so it is not shown.
        study_name: The study's name.
        space: What is searched.
        target: Number of trials in all, unless the study names another number by now.
        seed: Random seed shared by all trials.
        data: Data file or folder, passed to the task.
        device: Torch's name of the device, passed to the task.
        cache: Folder of full-precision models, passed to the task.
        models_dir: Folder for the weights of complete trials; None to send them to the search if it wants them.
        trial_module: The module that runs trials.
        worker: The worker's name.
        heartbeat: Seconds between two signs of life.
        patience: Seconds to wait for a failing database or disk.
        task: The task itself, pickled by `cloudpickle` for a child process of this machine that could not import it by
            its name, as in a notebook. It is never written to a file or a database.
        release: Release of the study, which must be the worker's own; None if it cannot differ.
        weights: The user's own full-precision weights; None if the task's recipe trains them.
        fingerprint: Fingerprint of the search's data; a worker whose task loads other data ends. None to accept any.
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
