"""How a worker reports on its trial: how it ended, intermediate measurements, and its weights."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.trial import Trial, TrialState

from ttq_plugin.errors import InputError
from ttq_plugin.search import keys
from ttq_plugin.search.crew.job import Hopeless, Job, TrialCode
from ttq_plugin.search.crew.patience import STORAGE_FAULTS, patiently
from ttq_plugin.search.study import insides
from ttq_plugin.search.study.locks import lock
from ttq_plugin.search.study.weights import send


def tell(
    study: Study,
    trial: Trial,
    job: Job,
    notes: Mapping[str, Any],
    values: list[float] | None,
    *,
    limits: Mapping[str, float] | None = None,
    state: TrialState = TrialState.FAIL,
) -> None:
    """Record how a trial ended, unless its worker was taken for dead and the trial was given to another one."""
    with lock(job.storage, job.study_name, "ask"):
        if not _ours(study, trial, job):
            return
        insides.note(study, trial, notes)
        for text, violation in (limits or {}).items():
            if text not in trial.constraints:  # from an attempt of this function that failed half-way
                trial.set_constraint(text, violation)
        study.tell(trial, values, state=state if values is None else None, skip_if_finished=True)


def tell_looks(study: Study, trial: Trial, job: Job, looks: Mapping[str, Mapping[str, float]]) -> None:
    """Record intermediate measurements of a running trial, for comparison with others at the same rung."""

    def note() -> None:
        with lock(job.storage, job.study_name, "ask"):
            if _ours(study, trial, job):
                insides.note(study, trial, {keys.LOOKS: looks})

    patiently(note, job.patience)


def keep_weights(
    study: Study, trial: Trial, job: Job, code: TrialCode, model: Any, words: Mapping[str, str]
) -> None:  # fmt: skip
    """Saves or sends a complete trial's weights; a full disk is waited for, because it is not the trial's fault."""
    name = f"trial-{trial.number}.safetensors"

    def keep() -> None:
        with lock(job.storage, job.study_name, "ask"):
            if not _ours(study, trial, job):
                return
            if job.models_dir is not None:
                code.save_weights(model, Path(job.models_dir) / name, words)
            elif study.user_attrs.get(keys.MODELS):
                with tempfile.TemporaryDirectory() as folder:
                    code.save_weights(model, Path(folder) / name, words)
                    send(study, trial.number, Path(folder) / name)

    try:
        patiently(keep, job.patience, faults=(*STORAGE_FAULTS, InputError))
    except InputError as error:
        raise Hopeless(f"The weights of trial {trial.number} cannot be saved: {error}") from error


def about(job: Job, settings: Mapping[str, Any], prepared: Any) -> dict[str, str]:
    """What a file of weights says of itself: the task, the settings, and the seed, which is the data's splits' too."""
    given = {name: value for name, value in settings.items() if value is not None and name != "task"}
    about = {"task": job.space.task, "seed": str(job.seed), "settings": json.dumps(given, sort_keys=True)}
    return about | ({"simulated": "true"} if getattr(prepared, "simulated", False) else {})


def _ours(study: Study, trial: Trial, job: Job) -> bool:
    """Whether the running trial is still this worker's; ask under the study's ask lock."""
    now = insides.now_of(study, trial)
    return bool(now.state == TrialState.RUNNING and now.user_attrs.get(keys.WORKER, {}).get("name") == job.worker)
