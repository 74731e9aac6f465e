"""Optuna studies as the search leaves them, with made-up results: nothing is trained."""

import math
import random
from pathlib import Path

from optuna.trial import TrialState

from ttq_plugin.search.space.load import parse_space
from ttq_plugin.search.study.study import open_study

SPACE = """
task: mnist-cnn
objectives: [mcc, cr_gain_total, ec_gain_total]
trials: 40
parameters:
  lr: {{low: 1.0e-4, high: 5.0e-3, log: true}}
  lr_scale: 1.0e-3
  lr_threshold: 1.0e-3
  epochs: {{low: 1, high: 30}}
  share: {{low: 0.3, high: 1.0}}
methods: {{{methods}}}
paper: []
"""
METHODS = {
    "ttq": "ttq: {t: {low: 0.02, high: 0.3}}",
    "attq": "attq: {t_min: {low: -2.0, high: -0.2}, t_max: {low: 0.2, high: 2.0}}",
    "pttq": "pttq: {t_min: {low: 0.5, high: 2.0}, t_max: {low: 0.5, high: 2.0}, alpha: 5.0}",
}


def fill_study(
    database: Path, name: str, trials: int = 40, methods: str = "ttq pttq", better: float = 0.0, **changes: str
):
    """A study in which MCC falls with the compression gain; trials 3 and 4 failed, trial 0 is a published setting."""
    text = SPACE.format(methods=", ".join(METHODS[method] for method in methods.split()))
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    described = parse_space(text, "the test's space")
    study = open_study(f"sqlite:///{database}", name, described, resume=False, seed=5)
    numbers = random.Random(len(name))
    for number in range(trials):
        trial = study.ask()
        settings = described.settings(described.suggest(trial), 5)
        for key, value in {
            "origin": "paper" if number == 0 else "search",
            "seed": 5,
            "started": 1.7e9 + 60 * number,
            "seconds": 12.5,
            "parameters": {k: v for k, v in settings.items() if v is not None and k != "task"},
        }.items():
            trial.set_user_attr(key, value)
        if number in (3, 4):
            trial.set_user_attr("reason", "diverged: <b>the loss</b> is nan")
            study.tell(trial, state=TrialState.FAIL)
            continue
        gain = 0.95 * settings["share"] * numbers.uniform(0.6, 1)
        mcc = 0.97 + better - 0.2 * gain**4 - 0.02 * abs(math.log10(settings["lr"] / 1e-3)) - numbers.uniform(0, 0.01)
        metrics = {"mcc": mcc, "cr_gain_total": gain, "ec_gain_total": 0.9 * gain - numbers.uniform(0, 0.05)}
        metrics |= {"srqw": gain, "bits_coo34": 1234.0}
        trial.set_user_attr("metrics", metrics)
        study.tell(trial, [metrics[name] for name in described.objectives])
    return study
