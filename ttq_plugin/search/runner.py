"""Runs a search: opens a study, and lets workers run trials until there are enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_plugin.errors import InputError
from ttq_plugin.search import keys
from ttq_plugin.search.crew.engines import get_engine
from ttq_plugin.search.crew.job import Job, as_text
from ttq_plugin.search.crew.loop import OnPoll, OnWait
from ttq_plugin.search.crew.parent import Summary, run_job, stop_requests, told
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.study.storage import HEARTBEAT
from ttq_plugin.search.study.study import check_same_start, open_study

if TYPE_CHECKING:
    import optuna

    from ttq_plugin.tasks.task import Task

__all__ = ["Summary", "positive", "run_job", "run_search", "stop_requests"]


def run_search(
    space: Space,
    storage: str,
    study_name: str,
    *,
    workers: int | None = None,
    trials: int | None = None,
    seed: int | None = None,
    task: Task | None = None,
    data: str | Path | None = None,
    cache: str | Path | None = None,
    weights: str | Path | None = None,
    fingerprint: str | None = None,
    notes: Mapping[str, Any] | None = None,
    models_dir: str | Path | None = None,
    device: str = "cpu",
    starts: Sequence[Mapping[str, Any]] = (),
    resume: bool = False,
    on_poll: OnPoll | None = None,
    on_wait: OnWait | None = None,
    engine: str = "processes",
    trial_module: str = "ttq_plugin.trial.run",
    poll_seconds: float = 0.5,
    heartbeat: int = HEARTBEAT,
    patience: float | None = None,
) -> Summary:
    """Search in worker processes until `trials` trials count; Ctrl-C or SIGTERM ends it and keeps what is finished.

    In a script, call it under `if __name__ == "__main__":`, because Python runs the script once more in every worker.

    Args:
        space: What is searched.
        storage: Database URL of the study.
        study_name: The study's name.
        workers: Number of processes; by default one for each core that this process may use.
        trials: Number of trials in all, including those of a resumed study; by default the space's number.
        task: The task itself, for workers that could not import it by its name; it needs the engine "processes".
        seed: Random seed shared by all trials; by default the space's, or the one of a resumed study.
        data: The user's data file or folder, passed to the task.
        cache: Folder where full-precision models are kept.
        weights: A safetensors file with the full-precision weights; None to train them by the task's recipe.
        fingerprint: Fingerprint of the data that the caller has loaded (see `Prepared.fingerprint`); workers that load
            other data are refused.
        notes: Further attributes of the study, by name.
        models_dir: Folder where each complete trial's weights are saved, as trial-<number>.safetensors.
        device: Torch's name of the device to train on.
        starts: Fixed parameters to try first, besides those of the space.
        resume: Whether to go on with the existing study instead of making a new one.
        on_poll: Called about twice a second with the finished and the running trials.
        on_wait: Called with the reason why the search is waiting, such as an unreachable database or a full disk.
        engine: "processes" for processes of this machine, "ray" for tasks on a Ray cluster.
        trial_module: The module that runs trials.
        poll_seconds: Pause between two looks at the study.
        heartbeat: Seconds between two signs of life of a worker; after three missing ones it counts as dead.
        patience: Seconds to wait for a failing database or disk; None for the space's.

    Returns:
        The counts, and whether the search was interrupted or stopped by an error.

    Raises:
        InputError: If an argument cannot be satisfied; no finished trial is lost.
    """
    if task is not None and engine != "processes":
        raise InputError(f"A task that is not imported by its name needs engine='processes', got {engine!r}.")
    place = get_engine(engine, storage)
    number, size = positive("trials", trials, space.trials), positive("workers", workers, place.room)
    if models_dir is not None:
        _make_folder(Path(models_dir))
    with stop_requests() as stop:
        # Inside: a Ctrl-C in the middle of making a study would leave half of one.
        opening = {"resume": resume, "seed": seed, "starts": starts, "heartbeat": heartbeat}
        study = _opened(storage, study_name, space, notes or {}, **opening)
        if resume:
            check_same_start(study, fingerprint, as_text(weights))
        job = Job(
            storage=storage,
            study_name=study_name,
            space=space,
            target=number,
            seed=study.user_attrs[keys.SEED],
            data=as_text(data),
            device=device,
            cache=as_text(cache),
            models_dir=as_text(models_dir),
            trial_module=trial_module,
            heartbeat=heartbeat,
            patience=space.give_up.patience if patience is None else patience,
            task=_packed(task),
            weights=as_text(weights),
            fingerprint=fingerprint,
        )
        return run_job(study, job, place, size, stop, on_poll=on_poll, on_wait=on_wait, pause=poll_seconds)


def _opened(storage: str, study_name: str, space: Space, notes: Mapping[str, Any], **opening: Any) -> optuna.Study:
    """The study, made or resumed, with its notes."""
    with told(storage, OSError):
        study: optuna.Study = open_study(storage, study_name, space, **opening)
        for key, value in notes.items():
            study.set_user_attr(key, value)
    return study


def positive(name: str, value: int | None, default: int) -> int:
    """That number of things, else the default."""
    if value is not None and value < 1:
        raise InputError(f"The number of {name} must be at least 1, got {value}.")
    return default if value is None else value


def _packed(task: Task | None) -> bytes | None:
    """The task for a child process; see ``Job.task``."""
    if task is None:
        return None
    import cloudpickle

    return bytes(cloudpickle.dumps(task))


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {path} for the models cannot be made: {error.strerror}.") from None
