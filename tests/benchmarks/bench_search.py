"""Hypervolume of (MCC, CR_G^T, EC_G^T) on mnist-cnn: a search of 40 trials beside the papers' grid and random search.

    python -m tests.benchmarks.bench_search --seeds 3 --epochs 2

The papers' grid: aTTQ with t_min, t_max in {-2, -1.5, ..., 2}, 81 pairs, of which the 36 with t_min > t_max are no
thresholds (the method refuses them); lr as published; their layers (conv1, conv2), and all four layers beside it. Every
training has the same epochs. Searches begin without the papers' settings. Validation MCC; the corner is 0 in each.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time

import optuna
import torch
from scipy.stats import t as student

from ttq_plugin.fronts import hypervolume, hypervolume_over_trials
from ttq_plugin.search.space.load import load_space
from ttq_plugin.search.space.samplers import make_sampler
from ttq_plugin.trial.run import Settings, prepare, run

VALUES = [-2 + i / 2 for i in range(9)]
OBJECTIVES = ("mcc", "cr_gain_total", "ec_gain_total")
PAPERS_LAYERS = [{"op_names": ["conv1", "conv2"], "target_names": ["weight"], "quant_dtype": "int2"}]


def vector(metrics: dict[str, float]) -> tuple[float, ...]:
    return tuple(metrics[name] for name in OBJECTIVES)


def grid(ready, epochs: int, layers) -> list[tuple[float, ...]]:
    pairs = [(low, high) for low in VALUES for high in VALUES if low <= high]
    points = []
    for low, high in pairs:
        settings = Settings("mnist-cnn", "attq", t_min=low, t_max=high, lr=1e-3, lr_threshold=None, epochs=epochs,
                            share=1.0)  # fmt: skip
        points.append(vector(run(ready, settings, config_list=layers).metrics))
    return points


def searched(ready, sampler: str, seed: int, trials: int, epochs: int) -> list[tuple[float, ...] | None]:
    ranges = {name: interval.model_dump() for name, interval in load_space("mnist-cnn").parameters.items()}
    space = load_space("mnist-cnn", {"parameters": {**ranges, "epochs": epochs}, "paper": [], "first": []})
    study = optuna.create_study(directions=["maximize"] * 3)
    points: list[tuple[float, ...] | None] = []
    for number in range(trials):
        trial = study.ask()
        study.sampler = make_sampler(sampler, seed, number, trials)
        outcome = run(ready, Settings(**space.settings(space.suggest(trial), seed)))
        points.append(vector(outcome.metrics))
        study.tell(trial, points[-1])
    return points


def interval(values: list[float]) -> str:
    """Mean and 95 % interval by Student's t."""
    if len(values) < 2:
        return f"{values[0]:.4f} (one seed)"
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.4f} +- {half:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    ready = prepare("mnist-cnn")
    for name, layers in (("their layers", PAPERS_LAYERS), ("all layers", None)):
        begun = time.process_time()
        points = grid(ready, options.epochs, layers)
        print(f"grid of 81 ({len(points)} exist), {name}: {hypervolume(points):.4f} "
              f"({time.process_time() - begun:.0f} s of CPU)", flush=True)  # fmt: skip
    ends: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        for sampler in ("tpe", "random"):
            begun = time.process_time()
            volumes = hypervolume_over_trials(searched(ready, sampler, seed, options.trials, options.epochs))
            ends.setdefault(sampler, []).append(volumes[-1])
            print(f"{sampler}, seed {seed}: {volumes[options.trials // 2 - 1]:.4f} after {options.trials // 2} trials, "
                  f"{volumes[-1]:.4f} after {options.trials} ({time.process_time() - begun:.0f} s of CPU)",
                  flush=True)  # fmt: skip
    for sampler, values in ends.items():
        print(f"{sampler}: {interval(values)} over {len(values)} seeds, {options.epochs} epochs each")
    print("tpe - random, seed by seed:", interval([a - b for a, b in zip(ends["tpe"], ends["random"], strict=True)]))
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
