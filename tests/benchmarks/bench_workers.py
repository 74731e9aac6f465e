"""How many more trials two workers finish than one, and what a trial costs beyond its training.

    python -m tests.benchmarks.bench_workers

`ttq search` as it is, MLflow included, on the embedded digits with sqlite: the same fixed settings in every trial, so
that every trial costs the same; one and two workers in turn. Printed: trials a minute from the first trial's start to
the last one's end, their ratio, and the workers' time a trial that is not the trial's own (drawing, telling, weights).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ttq_plugin.search.study.study import load_study
from ttq_plugin.trial.run import prepare

SPACE = """
task: mnist-cnn
objectives: [mcc, cr_gain_total]
parameters: {lr: 1.0e-3, lr_scale: 1.0e-3, lr_threshold: 1.0e-3, epochs: 12, share: 0.6}
methods: {pttq: {t_min: {low: 0.9, high: 1.1}, t_max: 1.0, alpha: 5.0}}
"""


def measured(folder: Path, cache: Path, workers: int, trials: int) -> tuple[float, float]:
    """Trials a minute, and seconds a trial beyond it; the start of the processes is left out."""
    folder.mkdir()
    (folder / "space.yaml").write_text(SPACE)
    words = ["search", "space.yaml", "--study", "s", "--workers", workers, "--trials", trials, "--cache", cache]
    command = [sys.executable, "-m", "ttq_plugin.cli", *map(str, words)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    found = [trial.user_attrs for trial in load_study(f"sqlite:///{folder}/mlflow_runs/studies.db", "s").trials]
    spans: dict[str, list[tuple[float, float]]] = {}  # of each worker: its trials' starts and ends
    for trial in found:
        spans.setdefault(trial["worker"]["name"], []).append((trial["started"], trial["started"] + trial["seconds"]))
    begun, ended = (edge(time for own in spans.values() for span in own for time in span) for edge in (min, max))
    # From a worker's first start to its own last end: waiting for the other's last trial is no trial's cost.
    beyond = sum(max(e for _, e in own) - min(s for s, _ in own) - sum(e - s for s, e in own) for own in spans.values())
    return 60 * len(found) / (ended - begun), beyond / (len(found) - len(spans))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--trials", type=int, default=12)
    arguments = parser.parse_args()
    ratios, costs = [], []
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(temporary) / "cache"
        prepare("mnist-cnn", cache=cache)
        for turn in range(arguments.turns):
            found = [measured(Path(temporary, f"{turn}-{n}"), cache, n, n * arguments.trials) for n in (1, 2)]
            (one, alone), (two, beyond) = found
            ratios.append(two / one)
            costs.append(beyond)
            print(
                f"one worker {one:.1f} trials/min, two {two:.1f}: {two / one:.2f}x; beyond a trial {alone:.2f} s "
                f"alone, {beyond:.2f} s with two",
                flush=True,
            )
    print(
        f"median {statistics.median(ratios):.2f}x, {statistics.median(costs):.2f} s beyond a trial with two workers "
        f"({min(costs):.2f} to {max(costs):.2f}), over {len(ratios)} turns"
    )


if __name__ == "__main__":
    main()
