"""What a share of zeros is worth to a search: hypervolumes of (MCC, CR_G^T, EC_G^T) after equally many epochs.

    python -m tests.benchmarks.bench_shares mnist-cnn --seeds 10
    python -m tests.benchmarks.bench_shares watch-cnn --seeds 10

Each seed is searched twice by `tpe` in this process, without early stops, for the epochs of 20 trainings of the space's
longest: once in the task's own space (pTTQ with a prescribed share of zeros), and once in the space that the task
had before (the papers' three methods with free thresholds, their settings first). The corner is 0 in each objective.
"""

from __future__ import annotations

import argparse
import time
import warnings

import optuna
import torch

from tests.benchmarks.bench_search import interval, vector
from ttq_plugin.fronts import hypervolume
from ttq_plugin.search.space.load import load_space
from ttq_plugin.search.space.samplers import make_sampler
from ttq_plugin.trial.run import Settings, prepare, run

TRIALS = 32
FIRST = {"mnist-cnn": {"epochs": 30, "share": 0.53}, "watch-cnn": {"epochs": 20, "share": 0.9}}
SLOW = {"mnist-cnn": 1e-4, "watch-cnn": 1e-3}


def before(task: str) -> dict[str, object]:
    """The changes that make a task's space the one that it had before."""
    ranges = {name: interval.model_dump() for name, interval in load_space(task).parameters.items()}
    t, rates = {"low": 0.5, "high": 2.0}, {"lr_scale": 1e-3, **FIRST[task]}
    return {
        "parameters": {**ranges, "lr_threshold": {"low": 1e-5, "high": 1e-2, "log": True}},
        "only": ["pttq", "attq", "ttq"],
        "methods": {
            "pttq": {"t_min": t, "t_max": t, "alpha": {"low": 1.0, "high": 100.0, "log": True}},
            "attq": {"t_min": {"low": -2.0, "high": -0.25}, "t_max": {"low": 0.25, "high": 2.0}},
            "ttq": {"t": {"low": 0.01, "high": 0.4, "log": True}},
        },
        "first": [],
        "paper": [
            {"method": "ttq", "t": 0.05, "lr": SLOW[task], **rates},
            {"method": "attq", "t_min": -1.0, "t_max": 0.5, "lr": 1e-3, **rates},
            {"method": "pttq", "t_min": 1.0, "t_max": 1.0, "alpha": 100.0, "lr": SLOW[task], "lr_threshold": 1e-3}
            | rates,
        ],
    }


def searched(ready, space, seed: int, epochs: int) -> float:
    """The hypervolume of what a search finds that may train for so many epochs in all."""
    study = optuna.create_study(directions=["maximize"] * 3)
    for first in space.enqueued():
        study.enqueue_trial(first)
    used, points = 0, []
    while True:
        trial = study.ask()
        study.sampler = make_sampler("tpe", seed, trial.number, TRIALS)
        settings = Settings(**space.settings(space.suggest(trial), seed))
        used += settings.epochs
        if used > epochs:
            return hypervolume(points)
        points.append(vector(run(ready, settings).metrics))
        study.tell(trial, points[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(FIRST))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trainings", type=int, default=20)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    ready = prepare(options.task)
    spaces = {"zeros": load_space(options.task), "thresholds": load_space(options.task, before(options.task))}
    epochs = int(options.trainings * spaces["zeros"].parameters["epochs"].high)
    found: dict[str, list[float]] = {name: [] for name in spaces}
    for seed in range(10, 10 + options.seeds):
        for name, space in spaces.items():
            begun = time.process_time()
            found[name].append(searched(ready, space, seed, epochs))
            print(
                f"{name}, seed {seed}: {found[name][-1]:.4f} ({time.process_time() - begun:.0f} s of CPU)", flush=True
            )
    gains = [one - other for one, other in zip(found["zeros"], found["thresholds"], strict=True)]
    for name, values in [*found.items(), ("zeros - thresholds, seed by seed", gains)]:
        print(f"{name}: {interval(values)} over {len(values)} seeds")


if __name__ == "__main__":
    main()
