"""What successive halving is worth: how early a trial's end can be told, and what a search makes of that.

    python -m tests.benchmarks.bench_halving record mnist-cnn --settings 100
    python -m tests.benchmarks.bench_halving correlate mnist-cnn

`record` trains settings drawn at random from a task's space, with a prescribed share of zeros, and appends each to
build/halving-TASK.jsonl: its parameters, its sizes, its validation score after some of its epochs, and the score of
whole trainings of so few epochs (their schedules compressed). `correlate` prints Spearman's rank correlation of each
early score with the last one, also with the influence of the size taken out of both.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ttq_plugin.search.space.load import load_space
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
    changes = {"methods": {"pttq": {"zeros": ZEROS, "alpha": alpha}}, "only": ["pttq"], "paper": []}
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["record", "correlate"])
    parser.add_argument("task")
    parser.add_argument("--settings", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if options.what == "record":
        record(options.task, options.settings, options.epochs, options.seed)
    else:
        correlate(options.task)


if __name__ == "__main__":
    main()
