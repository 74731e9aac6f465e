"""A worker: takes trials from the study, runs them and reports the results until all trials are handed out."""

from __future__ import annotations

import importlib
import signal
import sys
import time
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, cast

from optuna import Study, TrialPruned
from optuna.trial import FrozenTrial, Trial, TrialState

from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.search import keys
from ttq_plugin.search.crew.attempt import attempt
from ttq_plugin.search.crew.ending import why_ended
from ttq_plugin.search.crew.job import Hopeless, Job, TrialCode
from ttq_plugin.search.crew.patience import STORAGE_FAULTS, patiently
from ttq_plugin.search.crew.processes import crew_of, identity, orphaned
from ttq_plugin.search.crew.pulse import Pulse
from ttq_plugin.search.crew.telling import about, keep_weights, tell, tell_looks
from ttq_plugin.search.space.samplers import grid, handed_of_grid, make_sampler, next_number, waiting
from ttq_plugin.search.space.stopping import StopEarly
from ttq_plugin.search.study import insides
from ttq_plugin.search.study.early import Judge
from ttq_plugin.search.study.ledger import INTERRUPTED, lose, nobodys, reclaim
from ttq_plugin.search.study.locks import lock
from ttq_plugin.search.study.memory import remembered
from ttq_plugin.search.study.storage import Unavailable, cause
from ttq_plugin.search.study.study import load_study
from ttq_plugin.support.frames import explain
from ttq_plugin.support.processes import die_with_parent, own_process

STOP = 3
"""The exit code of a worker after a fatal error, so that no further workers are started."""


def worker_main(job: Job, channel: Any) -> None:
    """A worker's process, started by the search; a fatal error goes into the channel and ends with exit code STOP.

    The channel is a pipe of this worker alone: a queue shared by the workers stays locked for good when one of them is
    killed while it writes.

    Args:
        job: What to do.
        channel: The writing end of the pipe, for ("input" | "error", message).
    """
    # Ctrl-C reaches every process of the terminal; the search decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    own_process()
    try:
        work(job)
    except InputError as error:
        channel.send(("input", str(error)))
        sys.exit(STOP)
    except Hopeless as error:
        channel.send(("error", str(error)))
        sys.exit(STOP)


def work(job: Job) -> int:
    """Runs trials until none is left to hand out.

    Args:
        job: What to do.

    Returns:
        How many trials were run here.

    Raises:
        InputError: The study or the task's input cannot be used.
        Hopeless: Preparing failed, or the search's first trials all failed with the same error.
    """
    job = job if job.worker else replace(job, worker=f"{uuid.uuid4().hex}.0")
    # The search has opened this database before: where it cannot be reached now, that will pass.
    study = patiently(
        lambda: load_study(job.storage, job.study_name, heartbeat=job.heartbeat),
        job.patience,
        faults=(*STORAGE_FAULTS, Unavailable),
    )
    try:
        code = _trial_code(job.trial_module)
        prepared = code.prepare(
            _task(job),
            seed=job.seed,
            data=job.data,
            device=job.device,
            cache=job.cache,
            weights=job.weights,
            fingerprint=job.fingerprint,
        )
    except InputError:
        raise
    except Exception as error:
        raise Hopeless(f"Preparing {job.space.task} failed: {_describe(error)}") from error
    done = 0
    try:
        while (handed := patiently(lambda: _next(study, job), job.patience)) is not None:
            trial, values = handed
            with Pulse(study, trial, job.heartbeat):
                _run_one(study, trial, job, code, prepared, values)
            done += 1
            patiently(lambda: _give_up_if_hopeless(study, job.space.give_up.alike), job.patience)
    except STORAGE_FAULTS as error:
        raise Hopeless(f"The study's database fails: {cause(error, job.storage)}") from error
    return done


def _task(job: Job) -> Any:
    """The task's name, or the task itself where our parent process sent it along."""
    if job.task is None:
        return job.space.task
    import cloudpickle

    return cloudpickle.loads(job.task)  # through the pipe that multiprocessing starts us by, from nowhere else


def _trial_code(module: str) -> TrialCode:
    code = importlib.import_module(module)
    if "torch" in sys.modules:  # a test's stand-in does without
        # One thread a worker: with as many workers as cores, more threads only wait for each other.
        sys.modules["torch"].set_num_threads(1)
    return cast(TrialCode, code)


def _next(study: Study, job: Job) -> tuple[Trial, dict[str, Any]] | None:
    """The next trial and its values; None when the number is handed out, or the search was stopped.

    Counting and asking happen under one lock: no trial too many, and no number twice. Drawing does not, because it
    takes longer: it learns from what was there under the lock. What was left undone by a worker that died, or by an
    attempt of this function that failed half-way, is handed out again.

    Args:
        study: An optuna.Study.
        job: The search's job.

    Returns:
        The running trial, and the keywords of its Settings.
    """
    with lock(job.storage, job.study_name, "ask"):
        notes = study.user_attrs
        check_release(study.study_name, notes.get(keys.RELEASE), job.release)
        me, others = identity(job.worker), nobodys(study, crew_of({"name": job.worker}))
        trials = study.get_trials(deepcopy=False)

        def verdict(trial: FrozenTrial) -> str | None:
            return INTERRUPTED if trial.user_attrs.get(keys.WORKER) == me else others(trial)

        if reclaim(study, verdict, job.space.give_up.attempts, trials):
            trials = study.get_trials(deepcopy=False)
        target = notes.get(keys.TRIALS, job.target)
        if orphaned(me) or notes.get(keys.STOPPED) or why_ended(trials, job.space, target, notes.get(keys.UNTIL)):
            return None
        if job.space.sampler == "grid" and not waiting(trials):
            index = handed_of_grid(trials)
            study.enqueue_trial(grid(job.space, job.seed)[index], user_attrs={keys.GRID: index})
        study.sampler = make_sampler(job.space.sampler, job.seed, next_number(trials), target)
        if job.space.sampler == "tpe":
            study.sampler = insides.Shown(study.sampler, remembered(trials))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Heartbeat of storage")  # Pulse sends it, not study.optimize
            trial = study.ask()
        # Before the name: a named trial always has a sign of life that can grow old.
        insides.beat(study, trial)
        trial.set_user_attr(keys.WORKER, me)
    return trial, _drawn(study, trial, job)


def _drawn(study: Study, trial: Trial, job: Job) -> dict[str, Any]:
    """The keywords of the trial's Settings; that all of them are drawn is told last, by `parameters`."""
    values = job.space.suggest(trial)
    seed = trial.user_attrs.get(keys.SEED, job.seed)
    settings = job.space.settings(values, seed)
    told = {
        keys.ORIGIN: trial.user_attrs.get(keys.ORIGIN, "search"),
        keys.SEED: seed,
        keys.STARTED: time.time(),
        keys.PARAMETERS: {name: value for name, value in settings.items() if value is not None and name != "task"},
    }
    insides.note(study, trial, told)
    return settings


def check_release(name: str, studys: str | None, workers: str | None) -> None:
    """Refuse to mix trials of different code in one study.

    Args:
        name: The study's name.
        studys: The release that the study is searched by.
        workers: The one that works, None for one that the search itself started.

    Raises:
        InputError: They differ.
    """
    if workers is not None and workers != studys:
        raise InputError(
            f"The study {name!r} is searched by ttq-plugin {studys}, and a worker needs the same version, but this "
            f"machine has {workers}; install that version here."
        )


def _run_one(
    study: Study, trial: Trial, job: Job, code: TrialCode, prepared: Any, settings: Mapping[str, Any]
) -> None:  # fmt: skip
    """Runs one trial and tells how it ended, whatever happens; attributes first, a finished trial takes none."""
    begun = time.perf_counter()
    full, on_looks = getattr(prepared, "score", None), partial(tell_looks, study, trial, job)
    judge = Judge(study, job.space, settings["epochs"], full, trial.number, on_looks)
    hooks = {"on_look": judge} if job.space.stop_early != StopEarly() else {}
    try:
        found = attempt(job.space, code, prepared, settings, **hooks)
    except KeyboardInterrupt:  # only outside the search's own workers, which ignore it
        with lock(job.storage, job.study_name, "ask"):
            lose(study, insides.now_of(study, trial), INTERRUPTED, job.space.give_up.attempts)
        raise
    except TrialPruned as stop:
        seconds = time.perf_counter() - begun
        told = {
            keys.REASON: str(stop),
            keys.SECONDS: seconds,
            keys.SAVED: judge.saved(seconds),
            keys.LOOKS: judge.looks,
        }
        patiently(lambda: tell(study, trial, job, told, None, state=TrialState.PRUNED), job.patience)
        return
    except Exception as error:
        diverged = isinstance(error, Diverged)
        reason = f"diverged: {error}" if diverged else _describe(error)
        told = {keys.REASON: reason, keys.DIVERGED: diverged, keys.SECONDS: time.perf_counter() - begun}
        patiently(lambda: tell(study, trial, job, told, None), job.patience)
        return
    outcome = found.outcome
    keep_weights(study, trial, job, code, outcome.model, about(job, settings, prepared))
    told = {keys.METRICS: found.metrics, keys.NOTES: found.notes, keys.SECONDS: float(outcome.seconds)}
    told[keys.CURVES] = {"loss": [float(f"{loss:.6g}") for loss in outcome.losses]}
    told |= {keys.LOOKS: judge.looks} if judge.looks else {}
    told |= {keys.PARTS: found.parts} if found.parts else {}
    patiently(lambda: tell(study, trial, job, told, found.values, limits=found.limits), job.patience)


def _give_up_if_hopeless(study: Study, alike: int) -> None:
    """Where the first trials, that many, all fail with one and the same error, it is not the settings' fault."""
    trials = study.get_trials(deepcopy=False)
    if any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials):
        return
    trials = [trial for trial in trials if trial.state == TrialState.FAIL]
    reasons = {trial.user_attrs.get(keys.REASON) for trial in trials}
    same = len(reasons) == 1 and all(trial.user_attrs.get(keys.DIVERGED) is False for trial in trials)
    if len(trials) >= alike and same:
        raise Hopeless(f"The first {len(trials)} trials all failed with the same error: {reasons.pop()}")


def _describe(error: BaseException) -> str:
    """Our own sentences as they are; of any other error its type, its message, and the user's line if it is there."""
    return " ".join(str(error).split())[:500] if isinstance(error, InputError) else explain(error)
