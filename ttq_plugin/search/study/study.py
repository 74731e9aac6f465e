"""Opens or resumes a study, and refuses it if the stored and the requested search disagree."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna import Study

from ttq_plugin.errors import InputError
from ttq_plugin.fronts import is_higher
from ttq_plugin.search import keys
from ttq_plugin.search.space.file import TRIED_FIRST
from ttq_plugin.search.space.load import parse_space
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.study import insides
from ttq_plugin.search.study.storage import HEARTBEAT, Unavailable, open_storage
from ttq_plugin.support.names import redact


def open_study(
    storage: str,
    name: str,
    space: Space,
    *,
    resume: bool,
    seed: int | None = None,
    starts: Sequence[Mapping[str, Any]] = (),
    heartbeat: int = HEARTBEAT,
) -> Study:
    """Make a study with the settings enqueued that its space tries first, or open the existing one to continue it.

    Args:
        storage: Database URL.
        name: The study's name.
        space: What is searched. A resumed study may widen its ranges, but keeps its task and its objectives.
        resume: Whether to continue the existing study of that name; otherwise there must be none.
        seed: Random seed shared by all trials; by default the space's, or the one of a resumed study.
        starts: Further fixed parameters to try first, see `warm.starts`; a resumed study skips those it has tried.
        heartbeat: Seconds between two signs of life of a worker.

    Returns:
        An optuna.Study whose user attributes hold the objectives, the task, the seed and the space's text.

    Raises:
        InputError: If the database cannot be used, the name is taken or missing, or the study searched something else.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not 0 < len(name) <= 512:
        raise InputError(f"A study's name must have 1 to 512 characters, got {len(name)}.")
    if resume:
        study = load_study(storage, name, heartbeat=heartbeat)
        check_same_search(study, space, seed)
        for parameters in starts:
            study.enqueue_trial(dict(parameters), user_attrs={keys.ORIGIN: "warm"}, skip_if_exists=True)
        return study
    backend = open_storage(storage, create=True, heartbeat=heartbeat)
    notes = {
        keys.OBJECTIVES: list(space.objectives),
        keys.TASK: space.task,
        keys.SEED: space.seed if seed is None else seed,
        keys.SPACE: space.text,
    }
    waiting: list[tuple[Mapping[str, Any], dict[str, Any]]] = []
    for origin, settings in (*((key, space.enqueued(key)) for key in TRIED_FIRST), ("warm", starts)):
        known = [entry for entry, _ in waiting]
        waiting += [(entry, {keys.ORIGIN: origin}) for entry in settings if entry not in known]
    try:
        return insides.create_study(
            backend, name, [_maximised(objective) for objective in space.objectives], notes, waiting
        )
    except optuna.exceptions.DuplicatedStudyError:
        raise InputError(
            f"The study {name!r} already exists in {redact(storage)}; continue it with --resume, or use another name."
        ) from None


def load_study(storage: str, name: str, *, heartbeat: int = HEARTBEAT) -> Study:
    """An existing study, to read or to work on.

    Args:
        storage: The database URL.
        name: The study's name.
        heartbeat: Seconds between two signs of life of a worker.

    Returns:
        An optuna.Study.

    Raises:
        InputError: The database cannot be used or holds no study of that name.
        Unavailable: If the database cannot be reached for now.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    backend = open_storage(storage, create=False, heartbeat=heartbeat)
    try:
        return optuna.load_study(storage=backend, study_name=name)
    except KeyError:
        names = ", ".join(insides.names(backend)) or "no study yet"
        raise InputError(f"There is no study {name!r} in {redact(storage)}, which holds: {names}.") from None
    except (optuna.exceptions.StorageInternalError, AttributeError) as error:
        raise Unavailable(f"The study database {redact(storage)} cannot be read ({type(error).__name__}).") from None


def stored_space(study: Study) -> Space:
    """The space that the study searched last.

    Args:
        study: An optuna.Study.

    Returns:
        The space, read from the study's own copy of the file.

    Raises:
        InputError: If the study was not made by ttq.
    """
    text = study.user_attrs.get(keys.SPACE)
    if text is None:
        raise InputError(
            f"The study {study.study_name!r} was not created by ttq: it does not record what was searched."
        )
    return parse_space(text, f"the space stored in study {study.study_name!r}")


def check_same_search(study: Study, space: Space, seed: int | None) -> None:
    """Refuse another search: Optuna would silently accept other directions and fail late on other methods."""
    name = study.study_name
    before = stored_space(study)
    kept, asked = list(study.user_attrs.get(keys.OBJECTIVES, [])), list(space.objectives)
    if before.metric != space.metric:
        raise InputError(
            f"The study {name!r} is scored by {_described(before)}, but the task's metric is {_described(space)}; "
            "use another study name."
        )
    if kept != asked or len(study.directions) != len(asked):
        raise InputError(
            f"The study {name!r} has the objectives {', '.join(kept)}, but the space asks for {', '.join(asked)}; "
            "a study keeps its objectives, so use another study name."
        )
    if before.task != space.task:
        raise InputError(f"The study {name!r} searches {before.task}, not {space.task}; use another study name.")
    if list(before.methods) != list(space.methods):
        raise InputError(
            f"The study {name!r} searches the methods {', '.join(before.methods)}, but the space lists "
            f"{', '.join(space.methods)}; a study keeps its methods, so use another study name."
        )
    if before.constraints != space.constraints:
        raise InputError(
            f"The study {name!r} has the constraints {', '.join(before.constraints) or 'none'}, "
            f"got {', '.join(space.constraints) or 'none'}; "
            "a study keeps its constraints, so use another study name."
        )
    scales = {key: interval.log for key, interval in before.intervals().items() if not interval.constant}
    for key, interval in space.intervals().items():
        if not interval.constant and scales.get(key, interval.log) != interval.log:
            raise InputError(
                f"The study {name!r} has {key} with log: {str(scales[key]).lower()}; keep it, or use another study "
                f"name."
            )
    if seed is not None and seed != study.user_attrs[keys.SEED]:
        raise InputError(
            f"The study {name!r} has seed {study.user_attrs[keys.SEED]}, got {seed}; leave --seed out to continue it."
        )


def check_same_start(study: Study, fingerprint: str | None, weights: str | None) -> None:
    """Check that new trials would start from the same data and weights as those that a study has.

    Args:
        study: An optuna.Study.
        fingerprint: The fingerprint of the data now; None where it is not known.
        weights: The user's own full-precision weights, a file; None for those of the task's recipe.

    Raises:
        InputError: If they differ.
    """
    name, notes = study.study_name, study.user_attrs
    if fingerprint and notes.get(keys.FINGERPRINT, fingerprint) != fingerprint:
        raise InputError(
            f"The study {name!r} was searched on other data than the task loads now; use another study name."
        )
    if keys.WEIGHTS in notes and notes[keys.WEIGHTS] != digest_of(weights):
        before = "your own full-precision weights" if notes[keys.WEIGHTS] else "the weights of the task's recipe"
        raise InputError(
            f"The study {name!r} starts from {before}, got {weights or 'no --weights'}; give the same, or use another "
            "study name."
        )


def digest_of(weights: str | None) -> str | None:
    """A short hash of a file of weights; None for None."""
    if weights is None:
        return None
    try:
        with open(weights, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise InputError(f"The weights {weights} cannot be read: {error.strerror}.") from None


def _maximised(objective: str) -> str:
    """What an objective's upward value is called, where people see Optuna's numbers; see ``fronts.upward``."""
    return str(objective) if is_higher(objective) else f"1 / (1 + {objective})"


def _described(space: Space) -> str:
    return f"{space.metric.name} ({'higher' if space.metric.higher else 'lower'} is better)"
