"""Workers that join a search which another process, or another machine, has opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optuna import Study

from ttq_plugin.errors import InputError
from ttq_plugin.search import keys
from ttq_plugin.search.crew.crew import Processes
from ttq_plugin.search.crew.job import Job, as_text
from ttq_plugin.search.crew.loop import Loop, OnPoll, OnWait
from ttq_plugin.search.crew.parent import stop_requests
from ttq_plugin.search.crew.worker import check_release, work
from ttq_plugin.search.runner import positive
from ttq_plugin.search.study import insides
from ttq_plugin.search.study.ledger import counted
from ttq_plugin.search.study.storage import HEARTBEAT, open_storage
from ttq_plugin.search.study.study import check_same_start, load_study, stored_space
from ttq_plugin.support.names import redact, shell
from ttq_plugin.support.processes import cores
from ttq_plugin.support.release import release
from ttq_plugin.tasks import check_allowed


def find_study(storage: str, name: str | None) -> str:
    """The study to join: the named one, else the only one that has trials left.

    Args:
        storage: The database URL.
        name: The study's name, or None.

    Returns:
        Its name.

    Raises:
        InputError: The database cannot be used, no study has trials left, or several have.
    """
    if name is not None:
        return name
    backend = open_storage(storage, create=False)
    studies = [load_study(storage, each) for each in insides.names(backend)]
    left = [study.study_name for study in studies if counted(study) < study.user_attrs.get(keys.TRIALS, 0)]
    open_ones = [each for each in left if not load_study(storage, each).user_attrs.get(keys.STOPPED)]
    if len(open_ones) != 1:
        held = f"these have: {', '.join(open_ones)}; name one by --study" if open_ones else "none has"
        raise InputError(f"One study in {redact(storage)} must have trials left to join it, but {held}.")
    return str(open_ones[0])


def job_of(
    storage: str,
    study_name: str,
    *,
    task: str | None = None,
    data: str | Path | None = None,
    device: str = "cpu",
    cache: str | Path | None = None,
    models_dir: str | Path | None = None,
    weights: str | Path | None = None,
    trial_module: str = "ttq_plugin.trial.run",
    patience: float | None = None,
) -> Job:
    """What a worker that joins is to do: what is searched is stored with the study.

    Args:
        storage: The database URL.
        study_name: The study's name.
        task: What the study searches, which must be named if it is a task of the user's own, because its module is
            imported.
        data: This machine's data for the task.
        device: This machine's device.
        cache: This machine's folder of full-precision models.
        models_dir: A folder that the search sees too, for the weights; None sends them through the database.
        weights: This machine's copy of the full-precision weights that the search was given, if it was.
        trial_module: The module that runs trials.
        patience: Seconds to wait for a database or a disk that fails; None for the study's.

    Returns:
        The job.

    Raises:
        InputError: The study cannot be used, was stopped, belongs to another version of this code, or searches a task
            that must be named.
    """
    study = load_study(storage, study_name)
    space, notes = stored_space(study), study.user_attrs
    check_allowed(f"the study {study_name!r}", space.task, task)
    check_release(study_name, notes.get(keys.RELEASE), release())
    if notes.get(keys.STOPPED):
        raise InputError(
            f"The search of {study_name!r} was stopped; continue it where it ran, with the command that it printed "
            f"at its end, or with the original command and `{shell(['--resume', study_name])}` in place of --study."
        )
    target, own = notes.get(keys.TRIALS, space.trials), _weights(study, weights)
    return Job(
        storage=storage,
        study_name=study_name,
        space=space,
        target=target,
        seed=notes[keys.SEED],
        data=as_text(data),
        device=device,
        cache=as_text(cache),
        models_dir=as_text(models_dir),
        trial_module=trial_module,
        heartbeat=notes.get(keys.HEARTBEAT, HEARTBEAT),
        patience=space.give_up.patience if patience is None else patience,
        release=release(),
        weights=own,
        fingerprint=notes.get(keys.FINGERPRINT),
    )


def _weights(study: Study, given: str | Path | None) -> str | None:
    """The weights to start from: those given, or the search's own file where this machine has it."""
    searched = study.user_attrs.get(keys.INPUTS, {}).get("weights")
    if given is None and searched is not None:
        if not Path(searched).is_file():
            raise InputError(
                f"The search of {study.study_name!r} was given the full-precision weights {searched}, which are not on "
                "this machine; name a copy with --weights."
            )
        given = searched
    chosen = None if given is None else str(given)
    check_same_start(study, None, chosen)
    return chosen


def join_search(storage: str, study_name: str, **keywords: Any) -> int:
    """Works on a study in this process, until none of its trials is left to hand out.

    Args:
        storage: The database URL.
        study_name: The study's name.
        **keywords: The keywords of `job_of`.

    Returns:
        How many trials were run here.
    """
    return work(job_of(storage, study_name, **keywords))


def run_workers(
    job: Job,
    *,
    workers: int | None = None,
    on_poll: OnPoll | None = None,
    on_wait: OnWait | None = None,
    poll_seconds: float = 0.5,
) -> tuple[int, bool]:
    """Works on a study in processes of this machine; Ctrl-C or SIGTERM ends them, and their trials are tried again.

    Args:
        job: The result of `job_of`.
        workers: How many processes, by default one for each core this process may use.
        on_poll: Called about twice a second with the finished trials, and the running ones of these workers.
        on_wait: Called with what keeps them waiting.
        poll_seconds: The pause between two looks at the study.

    Returns:
        How many trials were finished here, and whether a signal ended it.

    Raises:
        InputError: The task's input cannot be used.
        RuntimeError: The workers failed; the message says why.
    """
    study, crew, size = load_study(job.storage, job.study_name), Processes(job), positive("workers", workers, cores())
    with stop_requests() as stop:
        loop = Loop(study, job, crew, size, on_poll=on_poll, on_wait=on_wait, pause=poll_seconds)
        try:
            loop.run(stop)
        finally:
            loop.close()
    if loop.bad_input:
        raise InputError(loop.bad_input)
    if loop.error:
        raise RuntimeError(loop.error)
    ours = [trial for trial in study.get_trials(deepcopy=False) if crew.has(trial.user_attrs.get(keys.WORKER))]
    return sum(trial.state.is_finished() for trial in ours), bool(stop)
