"""Optuna's private parts: one module knows them, and they are what it takes them for in the Optuna installed."""

import ast
import inspect

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import TrialState
from sqlalchemy import text

from tests.conftest import ROOT
from ttq_plugin.search.study import insides
from ttq_plugin.search.study.storage import open_storage

PRIVATE = {"_storage", "_study_id", "_trial_id", "_backend", "system_attrs", "scoped_session"}

OF_A_TRIAL = {
    "trial_heartbeats",
    "trial_intermediate_values",
    "trial_params",
    "trial_system_attributes",
    "trial_user_attributes",
    "trial_values",
}
"""Tables that hold something of a trial; ``put_back`` clears all but intermediate values, which nobody reports."""


@pytest.fixture
def backend(storage):
    return open_storage(storage, create=True)


def rows(backend):
    """What every table holds."""
    with backend.engine.connect() as connection:
        return {
            name: [dict(row) for row in connection.execute(text(f"SELECT * FROM {name}")).mappings()]
            for name in models.BaseModel.metadata.tables
        }


def test_no_other_module_reaches_behind_optuna():
    found = set()
    for path in (ROOT / "ttq_plugin").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            private = isinstance(node, ast.Attribute) and node.attr in PRIVATE
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("optuna"):
                private = any(part.startswith("_") for part in f"{node.module}.{node.names[0].name}".split("."))
            if private:
                found.add(str(path.relative_to(ROOT / "ttq_plugin")))
    assert found == {"search/study/insides.py"}


@pytest.mark.parametrize(
    "function, names",
    [
        (RDBStorage._get_prepared_new_trial, ["self", "study_id", "template_trial", "session"]),
        (
            RDBStorage._set_trial_attr_without_commit,
            ["self", "session", "model_cls", "trial_id", "key", "value"],
        ),
        (RDBStorage._get_stale_trial_ids, ["self", "study_id"]),
        (RDBStorage.record_heartbeat, ["self", "trial_id"]),
        (models.TrialModel.find_or_raise_by_id, ["trial_id", "session", "for_update"]),
        (models.StudyModel.find_or_raise_by_id, ["study_id", "session", "for_update"]),
        (models.StudyUserAttributeModel.find_by_study_and_key, ["study", "key", "session"]),
        (_create_scoped_session, ["scoped_session", "ignore_integrity_error"]),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_optuna_still_has_what_we_call(function, names):
    assert list(inspect.signature(function).parameters) == names


def test_no_table_of_trials_is_forgotten():
    tables = models.BaseModel.metadata.tables
    keys = {name for name, table in tables.items() for key in table.foreign_keys if key.column.table.name == "trials"}
    assert keys == OF_A_TRIAL


def test_a_study_made_at_once_is_the_one_that_optuna_makes_step_by_step(backend, tmp_path):
    theirs = open_storage(f"sqlite:///{tmp_path}/theirs.db", create=True)
    insides.create_study(backend, "s", ["mcc", "srqw"], {"task": "t", "seed": 3}, [({"t": 0.5}, {"origin": "paper"})])
    study = optuna.create_study(storage=theirs, study_name="s", directions=["maximize"] * 2)
    study.set_metric_names(["mcc", "srqw"])
    study.set_user_attr("task", "t")
    study.set_user_attr("seed", 3)
    study.enqueue_trial({"t": 0.5}, user_attrs={"origin": "paper"})
    assert rows(backend) == rows(theirs)


def test_a_trial_put_back_is_as_if_nobody_had_begun_it(backend):
    study = insides.create_study(backend, "s", ["mcc"], {}, [({"t": 0.5}, {"origin": "paper"})])
    before = rows(backend)
    trial = study.ask()
    assert insides.fixed(study.get_trials()[0]) == {"t": 0.5}
    assert trial.suggest_float("t", 0, 1) == 0.5
    trial.set_user_attr("worker", "w")
    insides.beat(study, trial)
    assert insides.now_of(study, trial).state == TrialState.RUNNING
    note = ("losses", lambda old: (old or 0) + 1)
    assert insides.put_back(study, trial, forget=True, keep=("origin",), note=note)
    after = rows(backend)
    assert after.pop("study_user_attributes")[0]["value_json"] == "1"
    del before["study_user_attributes"]
    assert after == before
    assert not insides.put_back(study, trial, forget=True, keep=(), note=note), "it does not run any more"


def test_a_trial_given_up_has_failed_for_a_reason(backend):
    study = insides.create_study(backend, "s", ["mcc"], {}, [])
    trial = study.ask()
    assert insides.give_up(study, trial, reason="killed", note=("losses", lambda old: 1))
    (found,) = study.get_trials()
    assert (found.state, found.user_attrs, study.user_attrs) == (TrialState.FAIL, {"reason": "killed"}, {"losses": 1})
    assert not insides.give_up(study, trial, reason="again", note=("losses", lambda old: 2))
    assert insides.silent(study) == set()
