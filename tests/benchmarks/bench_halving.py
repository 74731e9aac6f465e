"""What successive halving is worth: how early a trial's end can be told, and what a search makes of that.

    python -m tests.benchmarks.bench_halving record mnist-cnn --settings 100
    python -m tests.benchmarks.bench_halving correlate mnist-cnn
    python -m tests.benchmarks.bench_halving replay mnist-cnn

`record` trains settings drawn at random from a task's space, with a prescribed share of zeros, and appends each to
build/halving-TASK.jsonl: its parameters, its sizes, its validation score after some of its epochs, and the score of
whole trainings of so few epochs (their schedules compressed). `correlate` prints Spearman's rank correlation of each
early score with the last one, also with the influence of the size taken out of both. `replay` trains nothing: it fits
the recorded numbers by Gaussian processes and searches what they predict, with the recorded deviations drawn anew for
each trial, by TPE alone and by TPE with halving, each for the epochs of 40 whole trainings; it prints the hypervolume.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from scipy.stats import t as student

from ttq_plugin.fronts import hypervolume
from ttq_plugin.search.space.load import load_space
from ttq_plugin.search.space.samplers import make_sampler
from ttq_plugin.search.study.halving import Reached, place, room
from ttq_plugin.trial.run import Settings, prepare, run

FRACTIONS = (1 / 4, 1 / 3, 1 / 2, 3 / 4)
ZEROS = {"low": 0.5, "high": 0.99}


def table(task: str) -> Path:
    return Path(f"build/halving-{task}.jsonl")


def space_of(task: str, epochs: Any) -> Any:
    """The task's own space with shares of zeros in the place of pTTQ's thresholds."""
    built_in = load_space(task)
    ranges = {name: interval.model_dump() for name, interval in built_in.parameters.items()}
    alpha = built_in.methods["pttq"]["alpha"].model_dump()
    changes = {"methods": {"pttq": {"zeros": ZEROS, "alpha": alpha}}, "only": ["pttq"], "paper": [], "first": []}
    return load_space(task, {**changes, "parameters": {**ranges, "epochs": epochs}})


def drawn(space: Any, numbers: np.random.Generator) -> dict[str, float | int]:
    """A setting drawn uniformly from a space of one method."""
    found: dict[str, float | int] = {}
    for key, interval in space.intervals().items():
        low, high = (np.log(interval.low), np.log(interval.high)) if interval.log else (interval.low, interval.high)
        value = interval.low if interval.constant else float(numbers.uniform(low, high))
        found[key.rpartition(".")[2]] = float(np.exp(value)) if interval.log and not interval.constant else value
    return found | {"epochs": int(found["epochs"])}


def record(task: str, settings: int, epochs: int, seed: int) -> None:
    space, ready = space_of(task, epochs), prepare(task)
    numbers, path = np.random.default_rng(seed), table(task)
    for _ in range(settings):
        values, begun, looks = drawn(space, numbers), time.process_time(), {}
        given = {"task": task, "method": "pttq", "seed": 0}

        def look(at: Any, looks: dict[int, float] = looks) -> None:
            if at.epoch in {round(epochs * fraction) for fraction in FRACTIONS}:
                looks[at.epoch] = at.measure()[str(space.score)]

        outcome = run(ready, Settings(**given, **values), on_look=look)
        fewer = {few: Settings(**given, **values | {"epochs": few}) for few in (epochs // 4, epochs // 2)}
        whole = {few: run(ready, short).score for few, short in fewer.items()}
        row = {"parameters": values, "metrics": outcome.metrics, "looks": looks, "whole": whole}
        with path.open("a") as file:
            file.write(json.dumps(row | {"seconds": time.process_time() - begun}) + "\n")


def rows_of(task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in table(task).read_text().splitlines()]


def correlate(task: str) -> None:
    from scipy.stats import rankdata, spearmanr

    rows, score = rows_of(task), str(load_space(task).score)
    last = [row["metrics"][score] for row in rows]
    size = rankdata([row["metrics"]["cr_gain_total"] for row in rows])

    def rest(values: list[float]) -> np.ndarray:
        """Ranks with what a cubic of the size's rank explains taken out."""
        ranks = rankdata(values)
        return ranks - np.polyval(np.polyfit(size, ranks, 3), size)

    print(f"{task}: {len(rows)} settings, {np.mean([row['seconds'] for row in rows]):.1f} s each")
    for kind, words in (("looks", "running schedule"), ("whole", "whole training of so few epochs")):
        for epoch in rows[0][kind]:
            early = [row[kind][epoch] for row in rows]
            beside = np.corrcoef(rest(early), rest(last))[0, 1]
            print(f"{words}, epoch {epoch}: {spearmanr(early, last)[0]:.2f}, at equal size {beside:.2f}")


class Fitted:
    """Scores by epoch and gains of any setting, as the recorded trainings suggest them."""

    def __init__(self, rows: list[dict[str, Any]], score: str) -> None:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, WhiteKernel

        self.names = [name for name in rows[0]["parameters"] if name != "epochs"]
        points = np.array([self.point(row["parameters"]) for row in rows])
        self.middle, self.spread = points.mean(0), points.std(0)
        scaled = (points - self.middle) / self.spread
        self.epochs = [*(int(epoch) for epoch in rows[0]["looks"]), rows[0]["parameters"]["epochs"]]
        scores = np.array([[*row["looks"].values(), row["metrics"][score]] for row in rows])
        kernel = RBF(np.full(len(self.names), 3.0), (0.5, 50)) + WhiteKernel(0.1, (1e-3, 1))
        self.scores = [GaussianProcessRegressor(kernel, normalize_y=True).fit(scaled, column) for column in scores.T]
        # What a fit leaves, of all epochs of a row together: early and late luck belong to one training.
        self.left = scores - np.array([fit.predict(scaled) for fit in self.scores]).T
        gains = np.array([[row["metrics"][f"{kind}_gain_total"] for kind in ("cr", "ec")] for row in rows])
        smooth = RBF(np.full(len(self.names), 3.0), (0.5, 50)) + WhiteKernel(1e-3, (1e-6, 1e-1))
        self.gains = [GaussianProcessRegressor(smooth, normalize_y=True).fit(scaled, column) for column in gains.T]

    def point(self, values: dict[str, Any]) -> list[float]:
        return [float(np.log(values[name]) if name[:2] == "lr" or name == "alpha" else values[name])
                for name in self.names]  # fmt: skip

    def __call__(self, values: dict[str, Any], numbers: np.random.Generator) -> dict[int, tuple[float, ...]]:
        """Of each epoch the three objectives, the gains those of the end."""
        at = (np.array([self.point(values)]) - self.middle) / self.spread
        luck = self.left[numbers.integers(len(self.left))]
        gains = [min(0.99, float(fit.predict(at)[0])) for fit in self.gains]
        scores = [float(fit.predict(at)[0]) + more for fit, more in zip(self.scores, luck, strict=True)]
        return {epoch: (min(1.0, value), *gains) for epoch, value in zip(self.epochs, scores, strict=True)}


def searched(space: Any, fitted: Fitted, seed: int, rungs: tuple[tuple[int, int], ...], trainings: int) -> float:
    """The hypervolume of a search that may use the epochs of so many trainings; rungs are pairs of epoch and eta."""
    study, numbers = optuna.create_study(directions=["maximize"] * 3), np.random.default_rng(seed)
    reached: dict[int, list[Reached]] = {epoch: [] for epoch, _ in rungs}
    last, used, points = fitted.epochs[-1], 0, []
    while used + last <= trainings * last:
        trial = study.ask()
        study.sampler = make_sampler("tpe", seed, trial.number, trainings)
        values = {key.rpartition(".")[2]: value for key, value in space.suggest(trial).items()}
        found, stopped = fitted(values, numbers), None
        for epoch, eta in rungs:
            own = Reached(0.0, found[epoch])
            ahead = place(own, reached[epoch])
            reached[epoch].append(own)
            if ahead >= room(len(reached[epoch]), eta):
                stopped = epoch
                break
        used += stopped or last
        if stopped:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, found[last])
            points.append(found[last])
    return hypervolume(points)


def replay(task: str, seeds: int, trainings: int) -> None:
    rows, space = rows_of(task), space_of(task, 12)
    fitted = Fitted(rows, str(space.score))
    quarter, third, half, _, _ = fitted.epochs
    variants = {
        "tpe": (),
        "1/2, eta 2": ((half, 2),),
        "1/4 and 1/2, eta 2": ((quarter, 2), (half, 2)),
        "1/3, eta 3": ((third, 3),),
    }
    found: dict[str, list[float]] = {name: [] for name in variants}
    for seed in range(seeds):
        for name, rungs in variants.items():
            found[name].append(searched(space, fitted, seed, rungs, trainings))
    print(f"{task}, replayed from {len(rows)} recorded trainings, {seeds} seeds, epochs of {trainings} trainings:")
    for name, volumes in found.items():
        differences = np.array(volumes) - np.array(found["tpe"])
        half_width = student.ppf(0.975, seeds - 1) * differences.std(ddof=1) / np.sqrt(seeds)
        print(f"{name}: {np.mean(volumes):.4f}; above tpe {differences.mean():+.4f} +- {half_width:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["record", "correlate", "replay"])
    parser.add_argument("task")
    parser.add_argument("--settings", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trainings", type=int, default=40)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if options.what == "record":
        record(options.task, options.settings, options.epochs, options.seed)
    elif options.what == "replay":
        replay(options.task, options.seeds, options.trainings)
    else:
        correlate(options.task)


if __name__ == "__main__":
    main()
