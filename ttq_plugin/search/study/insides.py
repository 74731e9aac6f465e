"""Everything that goes beyond Optuna's public interface: missing transactions, and private names.

A search may be killed at any moment, so related changes are written in one transaction: a study exists completely or
not at all, and a lost trial is as if it had never begun.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import optuna
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.study import StudyDirection
from optuna.study.study import _SYSTEM_ATTR_METRIC_NAMES
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import Engine, inspect
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session

AnyTrial = Trial | FrozenTrial
"""A trial at work, or as the database has it."""

Row = Any
"""A row of one of Optuna's tables, or None: their columns have no types."""

FIXED = "fixed_params"
"""The attribute that `Study.enqueue_trial` gives a trial: parameters that are not drawn."""


def create_study(
    backend: RDBStorage,
    name: str,
    objectives: Sequence[str],
    notes: Mapping[str, Any],
    waiting: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> Study:
    """A new study, with its attributes and the trials that are to be run first, or an error and nothing.

    Args:
        backend: An optuna.storages.RDBStorage.
        name: Name of the study.
        objectives: What Optuna calls their values; all of them are maximised.
        notes: The study's user attributes.
        waiting: The fixed parameters and user attributes of each enqueued trial.

    Returns:
        The optuna.Study.

    Raises:
        DuplicatedStudyError: If there is a study of that name.
    """
    try:
        with _create_scoped_session(backend.scoped_session) as session:
            directions = [
                models.StudyDirectionModel(objective=index, direction=StudyDirection.MAXIMIZE)
                for index in range(len(objectives))
            ]
            study: Row = models.StudyModel(study_name=name, directions=directions)
            session.add(study)
            session.flush()
            # As `Study.set_metric_names` would write them.
            named = {"study_id": study.study_id, "key": _SYSTEM_ATTR_METRIC_NAMES}
            session.add(models.StudySystemAttributeModel(**named, value_json=json.dumps(list(objectives))))
            for key, value in notes.items():
                session.add(_note(study.study_id, key, value))
            for fixed, attributes in waiting:
                trial = optuna.trial.create_trial(
                    state=TrialState.WAITING, system_attrs={FIXED: dict(fixed)}, user_attrs=dict(attributes)
                )
                backend._get_prepared_new_trial(study.study_id, trial, session)
    except IntegrityError:
        raise optuna.exceptions.DuplicatedStudyError(name) from None
    return optuna.load_study(storage=backend, study_name=name)


Change = tuple[str, Callable[[Any], Any]]
"""A user attribute of a study, and how it changes: from the old value, or None, to the new one."""


def put_back(study: Study, trial: AnyTrial, *, forget: bool, keep: Collection[str], note: Change) -> bool:
    """Let a running trial wait again as if it had not been begun, and write that down.

    Args:
        study: An optuna.Study.
        trial: One of its trials.
        forget: Whether the parameters that were drawn are to be drawn again.
        keep: The user attributes that it keeps.
        note: What changes in the study.

    Returns:
        False, and nothing is changed, if the trial is not running any more.
    """
    with _running(study, trial, note) as (session, row):
        if row is None:
            return False
        notes, system = models.TrialUserAttributeModel, models.TrialSystemAttributeModel
        _delete(session, notes, row.trial_id, notes.key.notin_(keep))
        _delete(session, system, row.trial_id, system.key != FIXED)
        _delete(session, models.TrialValueModel, row.trial_id)
        _delete(session, models.TrialHeartbeatModel, row.trial_id)
        if forget:
            _delete(session, models.TrialParamModel, row.trial_id)
        row.state, row.datetime_start = TrialState.WAITING, None
    return True


def give_up(study: Study, trial: AnyTrial, *, reason: str, note: Change) -> bool:
    """End a running trial as failed, and write that down.

    Args:
        study: An optuna.Study.
        trial: One of its trials.
        reason: Its user attribute of that name.
        note: What changes in the study.

    Returns:
        False, and nothing is changed, if the trial is not running any more.
    """
    with _running(study, trial, note) as (session, row):
        if row is None:
            return False
        table = models.TrialUserAttributeModel
        _backend(study)._set_trial_attr_without_commit(session, table, row.trial_id, "reason", reason)
        row.state, row.datetime_complete = TrialState.FAIL, datetime.now()
    return True


@contextmanager
def _running(study: Study, trial: AnyTrial, note: Change) -> Iterator[tuple[Session, Row]]:
    """A transaction on a running trial, in which the study's note is changed too; nothing if it runs no more."""
    with _create_scoped_session(_backend(study).scoped_session) as session:
        row: Row = models.TrialModel.find_or_raise_by_id(trial._trial_id, session, for_update=True)
        if row.state != TrialState.RUNNING:
            yield session, None
            return
        key, change = note
        owner: Row = models.StudyModel.find_or_raise_by_id(study._study_id, session)
        old: Row = models.StudyUserAttributeModel.find_by_study_and_key(owner, key, session)
        if old is None:
            session.add(_note(owner.study_id, key, change(None)))
        else:
            old.value_json = json.dumps(change(json.loads(old.value_json)))
        yield session, row


def _backend(study: Study) -> RDBStorage:
    """The database's storage, which Optuna wraps in one that keeps finished trials."""
    storage = study._storage
    assert isinstance(storage, _CachedStorage)
    return storage._backend


def _delete(session: Session, table: Any, trial: int, *which: Any) -> None:
    session.query(table).filter(table.trial_id == trial, *which).delete(synchronize_session=False)


def fixed(trial: FrozenTrial) -> dict[str, Any]:
    """The parameters that an enqueued trial was given; empty for another one."""
    return dict(trial.system_attrs.get(FIXED, {}))


def now_of(study: Study, trial: AnyTrial) -> FrozenTrial:
    """The trial as the database has it now."""
    return study._storage.get_trial(trial._trial_id)


def note(study: Study, trial: Trial, notes: Mapping[str, Any]) -> None:
    """Write several user attributes of a running trial in one transaction, as `Trial.set_user_attr` writes one.

    Args:
        study: An optuna.Study.
        trial: One of its trials that is not finished.
        notes: What JSON can hold, by name.

    Raises:
        UpdateFinishedTrialError: If the trial has ended.
    """
    backend, table = _backend(study), models.TrialUserAttributeModel
    with _create_scoped_session(backend.scoped_session) as session:
        row: Row = models.TrialModel.find_or_raise_by_id(trial._trial_id, session)
        backend.check_trial_is_updatable(trial._trial_id, row.state)
        for key, value in notes.items():
            backend._set_trial_attr_without_commit(session, table, trial._trial_id, key, value)


class Shown(optuna.samplers.BaseSampler):
    """A sampler that draws each parameter independently, and sees only these trials.

    Args:
        sampler: Optuna's.
        trials: The trials, in the order of their numbers.
    """

    def __init__(self, sampler: optuna.samplers.BaseSampler, trials: Sequence[FrozenTrial]) -> None:
        self._sampler, self._trials = sampler, trials

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """None is drawn together with others."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One value, by the sampler."""
        seen = _Part(study, self._trials)
        return self._sampler.sample_independent(seen, trial, param_name, param_distribution)


class _Part(Study):
    """A study that consists of some of its trials only."""

    def __init__(self, study: Study, trials: Sequence[FrozenTrial]) -> None:
        self.__dict__.update(study.__dict__)
        self._trials = trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]


def beat(study: Study, trial: AnyTrial) -> None:
    """Write a sign of life of the trial's worker."""
    _backend(study).record_heartbeat(trial._trial_id)


def silent(study: Study) -> set[int]:
    """Numbers of the running trials without a sign of life for too long."""
    stale = set(_backend(study)._get_stale_trial_ids(study._study_id))
    return {trial.number for trial in study.get_trials(deepcopy=False) if trial._trial_id in stale}


def engine(study: Study) -> Engine:
    """SQLAlchemy's engine of the study's database."""
    return _backend(study).engine


def study_id(study: Study) -> int:
    """The study's key in the database."""
    return int(study._study_id)


def names(backend: RDBStorage) -> list[str]:
    """List all studies in a database, sorted, except those whose creation was interrupted before all tables existed."""
    try:
        return sorted(optuna.get_all_study_names(backend))
    except optuna.exceptions.StorageInternalError as error:
        if isinstance(error.__cause__, (OperationalError, ProgrammingError)) and _lacks_tables(backend):
            return []
        raise


def _lacks_tables(backend: RDBStorage) -> bool:
    there = inspect(backend.engine).get_table_names()
    return not set(models.BaseModel.metadata.tables) <= set(there)


def _note(study: int, key: str, value: Any) -> models.StudyUserAttributeModel:
    return models.StudyUserAttributeModel(study_id=study, key=key, value_json=json.dumps(value))
