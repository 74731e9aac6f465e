"""The search: a study, workers, and a parent that counts, replaces the killed and keeps everything when it ends."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from ttq_plugin.errors import InputError
from ttq_plugin.search.crew.ending import why_ended
from ttq_plugin.search.crew.engines import Engine, get_engine
from ttq_plugin.search.crew.job import Job
from ttq_plugin.search.crew.loop import Loop, OnPoll, OnWait
from ttq_plugin.search.crew.patience import STORAGE_FAULTS
from ttq_plugin.search.crew.processes import end_orphan
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.study.ledger import counted, finished, losses, nobodys, reclaim
from ttq_plugin.search.study.locks import lock
from ttq_plugin.search.study.storage import HEARTBEAT, cause
from ttq_plugin.search.study.study import check_same_start, digest_of, open_study
from ttq_plugin.search.study.weights import expect
from ttq_plugin.support.names import redact, shell
from ttq_plugin.support.release import release

if TYPE_CHECKING:
    from ttq_plugin.tasks.task import Task


@dataclass(frozen=True)
class Summary:
    """How a search ended; every finished trial is in the study whatever it says.

    Attributes:
        study_name: the study.
        target: trials asked for.
        complete: trials with all their objectives.
        failed: trials that failed for good.
        lost: how often a trial was lost with its worker.
        seconds: wall time.
        interrupted: whether a signal ended it.
        error: what stopped it, if something did.
        pruned: trials ended early.
        saved: seconds of training that those left out, all workers together.
        ended: what ended it in the end: "trials", "time", "grid" or "stagnation"; None where a signal or an error did.
    """

    study_name: str
    target: int
    complete: int
    failed: int
    lost: int
    seconds: float
    interrupted: bool = False
    error: str | None = None
    pruned: int = 0
    saved: float = 0.0
    ended: str | None = None


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
    """Searches until `trials` trials count, in worker processes; Ctrl-C or SIGTERM ends it with all that is finished.

    A script calls it under `if __name__ == "__main__":`, because Python runs the script once more in every worker.

    Args:
        space: what is searched.
        storage: the database URL of the study.
        study_name: the study's name.
        workers: how many processes, by default one for each core this process may use.
        trials: how many trials in all, those of a resumed study included; by default the space's number.
        task: the task itself, for workers that could not import it by its name; they must be processes here.
        seed: of every trial, by default the space's, or what a resumed study has.
        data: handed to the task.
        cache: where the task keeps full-precision models.
        weights: the user's own full-precision weights, a safetensors file; None for the task's recipe.
        fingerprint: of the data that the caller has loaded, see `Prepared.fingerprint`; other data are refused.
        notes: what else the study's own attributes are to say, by name.
        models_dir: where each complete trial's weights are saved, as trial-<number>.safetensors.
        device: handed to the task.
        starts: fixed parameters to try first, beside the papers' settings.
        resume: go on with the existing study instead of making a new one.
        on_poll: called about twice a second with the finished and the running trials.
        on_wait: called with what keeps the search waiting: a database out of reach, a full disk.
        engine: "processes" of this machine, or "ray" for tasks on a Ray cluster.
        trial_module: the module that runs trials.
        poll_seconds: the pause between two looks at the study.
        heartbeat: seconds between two signs of life of a worker; after three without one it is taken for dead.
        patience: seconds to wait for a database or a disk that fails; None for the space's.

    Returns:
        the counts, and whether the search was interrupted or stopped by an error.

    Raises:
        InputError: something asked for cannot be done; nothing that was finished is lost.
    """
    if task is not None and engine != "processes":
        raise InputError(f"A task that is not imported by its name needs engine='processes', got {engine!r}.")
    place = get_engine(engine, storage)
    number, size = positive("trials", trials, space.trials), positive("workers", workers, place.room)
    if models_dir is not None:
        _make_folder(Path(models_dir))
    with stop_requests() as stop:
        # Inside: a Ctrl-C in the middle of making a study would leave half of one.
        with _told(storage, OSError):
            study = open_study(storage, study_name, space, resume=resume, seed=seed, starts=starts, heartbeat=heartbeat)
            for key, value in (notes or {}).items():
                study.set_user_attr(key, value)
        if resume:
            check_same_start(study, fingerprint, _text(weights))
        job = Job(
            storage=storage,
            study_name=study_name,
            space=space,
            target=number,
            seed=study.user_attrs["seed"],
            data=_text(data),
            device=device,
            cache=_text(cache),
            models_dir=_text(models_dir),
            trial_module=trial_module,
            heartbeat=heartbeat,
            patience=space.give_up.patience if patience is None else patience,
            task=_packed(task),
            weights=_text(weights),
            fingerprint=fingerprint,
        )

        return run_job(study, job, place, size, stop, on_poll=on_poll, on_wait=on_wait, pause=poll_seconds)


def run_job(study: Any, job: Job, place: Engine, size: int, stop: list[int], **looks: Any) -> Summary:
    """Runs workers on an open study until the job is done or `stop` is no longer empty.

    Args:
        study: an optuna.Study.
        job: what the workers do.
        place: where they run.
        size: how many of them.
        stop: filled by `stop_requests`.
        **looks: `on_poll`, `on_wait` and `pause` of the loop.

    Returns:
        how it ended.

    Raises:
        InputError: see `run_search`.
    """

    def loop(guard: Any) -> Loop:
        return Loop(study, job, place.crew(job), size, guard=guard, **looks)

    with _told(job.storage):
        return _search(study, job, loop, stop)


@contextmanager
def _told(storage: str, *more: type[Exception]) -> Iterator[None]:
    """Tells in a sentence what is wrong with the database, where nobody waits for it to pass."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, *more) as error:
        why = cause(error, storage)
        raise InputError(f"The study database {redact(storage)} failed during the search: {why}.") from None


def _inputs(job: Job) -> dict[str, str | None]:
    """What else a trial's model depends on, for whoever makes it once more; None for the default."""
    paths = {"data": job.data, "cache": job.cache, "weights": job.weights}
    inputs = {name: None if path is None else str(Path(path).absolute()) for name, path in paths.items()}
    return inputs | {"device": None if job.device == "cpu" else job.device}


def _announce(study: Any, job: Job) -> None:
    """Tells the workers what is searched, here and elsewhere, and takes back what earlier ones left."""
    for key, value in {
        "space": job.space.text,  # a resumed one's ranges may differ from before
        "inputs": _inputs(job),
        "weights": digest_of(job.weights),
        "fingerprint": job.fingerprint,
        "release": release(),
        "heartbeat": job.heartbeat,
        "models": job.models_dir is not None,  # for workers that join from elsewhere, as the next ones are
        "trials": job.target,
        "until": None if job.space.timeout is None else time.time() + job.space.timeout,
        "stopped": False,
    }.items():
        study.set_user_attr(key, value)
    expect(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        end_orphan(trial.user_attrs.get("worker", {}))
    with lock(job.storage, job.study_name, "ask"):
        reclaim(study, nobodys(study), job.space.give_up.attempts)


def _search(study: Any, job: Job, loop: Callable[[Any], Loop], stop: list[int]) -> Summary:
    begun = time.perf_counter()
    with _only_search(job) as guard:
        with _told(job.storage, OSError):
            _announce(study, job)
        turns = loop(guard)
        try:
            turns.run(stop)
        finally:
            with contextlib.suppress(*STORAGE_FAULTS):
                # Nobody may go on, here or elsewhere, with a search that somebody ended.
                study.set_user_attr("stopped", counted(study) < job.target)
            turns.close()
        if turns.bad_input:
            raise InputError(turns.bad_input)
        return _summary(study, job, bool(stop), turns.error, time.perf_counter() - begun)


def _summary(study: Any, job: Job, interrupted: bool, error: str | None, seconds: float) -> Summary:
    trials = study.get_trials(deepcopy=False)
    lost = sum(len(reasons) for reasons in losses(study).values())
    states = [record["state"] for record in finished(study)]
    return Summary(
        study_name=job.study_name,
        target=job.target,
        complete=states.count("complete"),
        failed=states.count("failed"),
        lost=lost,
        seconds=seconds,
        interrupted=interrupted,
        error=error,
        pruned=states.count("pruned"),
        saved=sum(trial.user_attrs.get("saved", 0.0) for trial in trials),
        ended=None if interrupted or error else why_ended(trials, job.space, job.target, study.user_attrs["until"]),
    )


@contextmanager
def _only_search(job: Job) -> Iterator[Any]:
    """One search a study: two would write the same trials to MLflow.

    Args:
        job: the search's job.

    Yields:
        the lock.

    Raises:
        InputError: another process searches this study.
    """
    guard = lock(job.storage, job.study_name, "search")
    with _told(job.storage, OSError):
        try:
            guard.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(
                f"Another process is searching the study {job.study_name!r} right now; let it end, or join it by "
                f"`{shell(['ttq', 'worker', '--storage', redact(job.storage), '--study', job.study_name])}`."
            ) from None
    try:
        yield guard
    finally:
        guard.release()


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM instead of raising in the middle of a write.

    Yields:
        the list of signals that came, empty until one does.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: asked.append(number)) for number in signals]
    try:
        yield asked
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


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


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {path} for the models cannot be made: {error.strerror}.") from None
