"""Ternary compression as the objective of somebody else's Optuna study."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
import torch
from sklearn.datasets import load_diabetes

from tests.test_api import TASK
from ttq_plugin import InputError, TernaryObjective
from ttq_plugin.tasks.task import Data, Recipe, Split, Task
from ttq_plugin.tracking import open_store


def progression(source, seed):
    x, y = (torch.as_tensor(a).float() for a in load_diabetes(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return Data(*(Split(10 * x[part], y[part, None] / 100) for part in order.tensor_split([300, 370])))


def net():
    return torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))


REGRESSION = Task(
    "diabetes", "progression", progression, net, torch.nn.functional.mse_loss, Recipe(9, 1e-2), metric="rmse"
)


def dominated(one, others):
    return any(all(b >= a for a, b in zip(one, other, strict=True)) and other != one for other in others)


@pytest.mark.parametrize("task", [TASK, REGRESSION], ids=["classes", "regression"])
def test_trials_are_recorded_as_those_of_a_search(task, tmp_path):
    objective = TernaryObjective(task, store=tmp_path / "runs", cache=tmp_path / "cache", show=False)
    names = objective.space.objectives
    assert tuple(names) == (task.metric, "cr_gain_total", "ec_gain_total")
    study = optuna.create_study(
        study_name="mine", directions=["maximize"] * 3, sampler=optuna.samplers.RandomSampler(seed=1)
    )
    study.optimize(objective, n_trials=4)
    trials = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert len(trials) >= 3 and all(t.user_attrs["metrics"]["srqw"] >= 0 for t in trials)
    store = open_store(tmp_path / "runs")
    experiment = store.client.get_experiment_by_name("mine")
    runs = store.client.search_runs([experiment.experiment_id], "tags.role = 'trial'")
    assert len(runs) == 4
    recorded = {int(run.data.tags["trial"]): run for run in runs}
    values = [tuple(t.values) for t in trials]
    for trial in trials:
        natural = trial.user_attrs["metrics"][task.metric]
        assert recorded[trial.number].data.metrics[task.metric] == pytest.approx(natural, rel=1e-5)
        expected = 1 / (1 + natural) if task is REGRESSION else natural
        assert trial.values[0] == pytest.approx(expected, rel=1e-12)
        assert recorded[trial.number].data.tags["pareto"] == str(not dominated(tuple(trial.values), values)).lower()


def test_a_training_that_diverges_fails_its_trial_and_the_study_goes_on(tmp_path):
    objective = TernaryObjective(TASK, store=None, cache=tmp_path, show=False)
    study = optuna.create_study(directions=["maximize"] * 3, sampler=optuna.samplers.RandomSampler(seed=0))
    objective.prepared = replace(objective.prepared, train=objective.prepared.train.take(slice(64)))
    broken = Split(torch.full_like(objective.prepared.train.x, torch.inf), objective.prepared.train.y)
    objective.prepared = replace(objective.prepared, train=broken)
    study.optimize(objective, n_trials=1)
    assert study.trials[0].state == optuna.trial.TrialState.FAIL and "diverged" in study.trials[0].user_attrs["reason"]


def test_a_study_with_other_directions_is_refused_before_anything_is_trained(tmp_path):
    objective = TernaryObjective(TASK, store=None, cache=tmp_path, show=False)
    for directions in (["maximize"] * 2, ["minimize", "maximize", "maximize"]):
        study = optuna.create_study(directions=directions)
        with pytest.raises(InputError, match=r"must maximise 3 objectives \(macro_f1, .*directions="):
            study.optimize(objective, n_trials=1)


def test_a_space_of_another_task_is_refused(tmp_path):
    with pytest.raises(InputError, match="searches mnist-cnn, and the task named beside it must be the same"):
        TernaryObjective(TASK, "mnist-cnn", store=None, cache=tmp_path, show=False)
