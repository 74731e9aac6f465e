"""A worker: asks the study for a trial, runs it, tells the result, until the search's number is handed out."""

from __future__ import annotations

import importlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from optuna.trial import TrialState

from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.search.ledger import counted, lose
from ttq_plugin.search.processes import identity
from ttq_plugin.search.space import Space
from ttq_plugin.search.storage import lock
from ttq_plugin.search.study import load_study, sampler, stored_space

HOPELESS = 3
"""When the first trials, this many, all fail with one and the same error, it is not the settings' fault."""

STOP = 3
"""The exit code of a worker that says why no other one needs to be started."""


class TrialCode(Protocol):
    """What a worker needs of `ttq_plugin.trial`; the tests put a module with analytic objectives in its place."""

    def Settings(self, **keywords: Any) -> Any:
        """One compression's settings."""

    def prepare(self, task: str, **keywords: Any) -> Any:
        """What every trial of this worker shares: data, full-precision model, Hessian traces."""

    def run(self, prepared: Any, settings: Any) -> Any:
        """One compression; its outcome has metrics, notes, seconds and model."""

    def save_weights(self, model: Any, path: Path) -> None:
        """Writes the model's weights, all or nothing."""


@dataclass(frozen=True)
class Job:
    """What a worker is to do; it travels to the worker's process, so every part can be pickled."""

    storage: str
    study_name: str
    space: Space
    target: int
    seed: int
    data: str | None = None
    device: str = "cpu"
    cache: str | None = None
    models_dir: str | None = None
    trial_module: str = "ttq_plugin.trial"


class Hopeless(RuntimeError):
    """The search cannot succeed as it stands, and the message says why."""


def worker_main(job: Job, channel: Any) -> None:
    """A worker's process, started by the search; a fatal error goes into the channel and ends with exit code STOP.

    The channel is a pipe of this worker alone: a queue shared by the workers stays locked for good when one of them is
    killed while it writes.

    Args:
        job: what to do.
        channel: the writing end of the pipe, for ("input" | "error", message).
    """
    # Ctrl-C reaches every process of the terminal; the search decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    try:
        work(job)
    except InputError as error:
        channel.send(("input", str(error)))
        sys.exit(STOP)
    except Hopeless as error:
        channel.send(("error", str(error)))
        sys.exit(STOP)


def join_search(
    storage: str, study_name: str, *, data: str | None = None, device: str = "cpu", cache: str | None = None,
    models_dir: str | None = None, trial_module: str = "ttq_plugin.trial",
) -> int:  # fmt: skip
    """Works on a study that another process, or another machine, has opened: what it searches is stored with it.

    Args:
        storage: the database URL.
        study_name: the study's name.
        data: this machine's data for the task.
        device: this machine's device.
        cache: this machine's folder of full-precision models.
        models_dir: where to save the compressed models' weights.
        trial_module: the module that runs trials.

    Returns:
        how many trials were run here.
    """
    study = load_study(storage, study_name)
    space = stored_space(study)
    target, seed = study.user_attrs.get("trials", space.trials), study.user_attrs["seed"]
    return work(Job(storage, study_name, space, target, seed, data, device, cache, models_dir, trial_module))


def work(job: Job) -> int:
    """Runs trials until none is left to hand out.

    Args:
        job: what to do.

    Returns:
        how many trials were run here.

    Raises:
        InputError: the study or the task's input cannot be used.
        Hopeless: preparing failed, or the search's first trials all failed with the same error.
    """
    study = load_study(job.storage, job.study_name)
    try:
        code = _trial_code(job.trial_module)
        prepared = code.prepare(job.space.task, seed=job.seed, data=job.data, device=job.device, cache=job.cache)
    except InputError:
        raise
    except Exception as error:
        raise Hopeless(f"Preparing {job.space.task} failed: {_describe(error)}") from error
    done = 0
    while (handed := _next(study, job)) is not None:
        trial, values = handed
        _run_one(study, trial, job, code, prepared, values)
        done += 1
        _give_up_if_hopeless(study)
    return done


def _trial_code(module: str) -> TrialCode:
    code = importlib.import_module(module)
    if "torch" in sys.modules:  # a test's stand-in does without
        # One thread a worker: with as many workers as cores, more threads only wait for each other.
        sys.modules["torch"].set_num_threads(1)
    return cast(TrialCode, code)


def _next(study: Any, job: Job) -> tuple[Any, dict[str, Any]] | None:
    """The next trial and its values; None when the number is handed out.

    Counting, asking and drawing happen under one lock: no trial too many, and TPE sees what the others are at. The lock
    is one machine's; workers on several of them can hand out a trial too many at the very end.

    Args:
        study: an optuna.Study.
        job: the search's job.

    Returns:
        the running trial, and the keywords of its Settings.
    """
    with lock(job.storage, job.study_name, "ask"):
        if counted(study) >= job.target:
            return None
        trial = study.ask()
        trial.set_user_attr("worker", identity())
        study.sampler = sampler(job.seed, trial.number)
        values = job.space.suggest(trial)
        settings = job.space.settings(values, job.seed)
        for key, value in {
            "origin": trial.user_attrs.get("origin", "search"),
            "seed": job.seed,
            "started": time.time(),
            "parameters": {name: value for name, value in settings.items() if value is not None and name != "task"},
        }.items():
            trial.set_user_attr(key, value)
    return trial, settings


def _run_one(
    study: Any, trial: Any, job: Job, code: TrialCode, prepared: Any, settings: Mapping[str, Any]
) -> None:  # fmt: skip
    """Runs one trial and tells how it ended, whatever happens; attributes first, a finished trial takes none."""
    begun = time.perf_counter()
    try:
        outcome = code.run(prepared, code.Settings(**settings))
        metrics = {name: float(value) for name, value in outcome.metrics.items()}
        values = [metrics[name] for name in job.space.objectives]
        _refuse_infinite(job.space.objectives, values)
        if job.models_dir is not None:
            code.save_weights(outcome.model, Path(job.models_dir) / f"trial-{trial.number}.safetensors")
    except KeyboardInterrupt:  # only outside the search's own workers, which ignore it
        lose(study, study._storage.get_trial(trial._trial_id), "interrupted", fault=False)
        raise
    except Exception as error:
        diverged = isinstance(error, Diverged)
        trial.set_user_attr("reason", f"diverged: {error}" if diverged else _describe(error))
        trial.set_user_attr("diverged", diverged)
        trial.set_user_attr("seconds", time.perf_counter() - begun)
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        return
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    dropped = [f"{name} is {value}" for name, value in metrics.items() if name not in finite]
    trial.set_user_attr("metrics", finite)
    trial.set_user_attr("notes", [*outcome.notes, *dropped])
    trial.set_user_attr("seconds", float(outcome.seconds))
    study.tell(trial, values, skip_if_finished=True)


def _refuse_infinite(names: tuple[str, ...], values: list[float]) -> None:
    """Optuna fails a trial whose value is NaN, but takes infinity for the best value ever seen."""
    for name, value in zip(names, values, strict=True):
        if not math.isfinite(value):
            raise Diverged(f"the objective {name} is {value}")


def _give_up_if_hopeless(study: Any) -> None:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    trials = [trial for trial in trials if not trial.user_attrs.get("again")]
    reasons = {trial.user_attrs.get("reason") for trial in trials}
    alike = len(reasons) == 1 and all(trial.user_attrs.get("diverged") is False for trial in trials)
    if len(trials) >= HOPELESS and alike:
        raise Hopeless(f"The first {len(trials)} trials all failed with the same error: {reasons.pop()}")


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__


def _die_with_parent() -> None:
    """A search killed outright must not leave workers behind that go on with trials nobody reads."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
