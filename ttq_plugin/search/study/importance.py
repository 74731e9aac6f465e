"""Estimates which parameters a search's objectives depend on, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import optuna
from optuna.importance import MeanDecreaseImpurityImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

LEAST = 10
"""Complete trials below which a forest only describes chance."""

RESAMPLINGS = 8


@dataclass(frozen=True)
class Importance:
    """Parameter importances among a group of trials.

    Attributes:
        among: "all trials", or the method whose trials these are.
        trials: The number of trials.
        shares: Objective -> parameter -> (share of the explained variation, its standard error); shares sum to 1.
    """

    among: str
    trials: int
    shares: dict[str, dict[str, tuple[float, float]]]


def importances(study: optuna.Study, objectives: Sequence[str], *, seed: int = 0) -> list[Importance]:
    """Importances over all trials, and with several methods over each one's trials, its own parameters included.

    A share is the mean decrease in impurity of a random forest (Breiman 2001, by Optuna); its standard error is the
    spread over forests grown on trials drawn with replacement.

    Args:
        study: An optuna.Study whose objectives are all maximised.
        objectives: Their names, in the study's order.
        seed: Random seed of the forests and the resampling.

    Returns:
        One entry a group that has enough trials and a parameter that varies; none where nothing can be said.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    trials = [trial for trial in trials if all(math.isfinite(value) for value in trial.values)]
    groups = {"all trials": trials}
    methods = list(dict.fromkeys(trial.params["method"] for trial in trials if "method" in trial.params))
    if len(methods) > 1:
        groups |= {method: [trial for trial in trials if trial.params.get("method") == method] for method in methods}
    found = (_of_group(name, group, objectives, seed) for name, group in groups.items() if len(group) >= LEAST)
    return [importance for importance in found if importance is not None]


def _of_group(name: str, trials: list[FrozenTrial], objectives: Sequence[str], seed: int) -> Importance | None:
    names = [key for key in trials[0].params if all(key in trial.params for trial in trials)]
    names = [key for key in names if len({trial.params[key] for trial in trials}) > 1]
    if not names:
        return None
    numbers = np.random.default_rng(seed)
    samples = [trials] + [
        [trials[i] for i in numbers.integers(len(trials), size=len(trials))] for _ in range(RESAMPLINGS)
    ]
    forests = [_shares(sample, names, len(objectives), seed) for sample in samples]
    shares = {}
    for index, objective in enumerate(objectives):
        spread = {key: float(np.std([forest[index][key] for forest in forests[1:]], ddof=1)) for key in names}
        shares[objective] = {key.rpartition(".")[2]: (forests[0][index][key], spread[key]) for key in names}
    return Importance(name, len(trials), shares)


def _value(trial: FrozenTrial, index: int) -> float:
    value: float = trial.values[index]
    return value


def _shares(trials: list[FrozenTrial], names: list[str], objectives: int, seed: int) -> list[dict[str, float]]:
    """Each objective's shares; a parameter or an objective that is constant in a resampling explains nothing there."""
    study = optuna.create_study(directions=["maximize"] * objectives)
    study.add_trials(trials)
    varying = [key for key in names if len({trial.params[key] for trial in trials}) > 1]
    shares = []
    for index in range(objectives):
        known: dict[str, float] = {}
        if varying and len({trial.values[index] for trial in trials}) > 1:
            known = get_param_importances(
                study,
                evaluator=MeanDecreaseImpurityImportanceEvaluator(seed=seed),
                params=varying,
                target=partial(_value, index=index),
            )
        shares.append({key: float(known.get(key, 0.0)) for key in names})
    return shares
