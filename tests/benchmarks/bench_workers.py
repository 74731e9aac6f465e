"""How many more trials two worker processes finish than one: python -m tests.benchmarks.bench_workers.

Real searches on the embedded digits, the same fixed settings in every trial (so that every trial costs the same), one
and two workers in turn. Printed: trials a minute between the first and the last trial's end, and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from ttq_plugin.search.load import parse_space
from ttq_plugin.search.runner import run_search
from ttq_plugin.trial import prepare

SPACE = """
task: mnist-cnn
objectives: [mcc, cr_gain_total]
parameters: {lr: 1.0e-3, lr_scale: 1.0e-3, lr_threshold: 1.0e-3, epochs: 12, share: 0.6}
methods: {pttq: {t_min: {low: 0.9, high: 1.1}, t_max: 1.0, alpha: 5.0}}
"""


def rate(folder: Path, cache: Path, workers: int, trials: int) -> float:
    """Trials a minute, start-up of the processes left out: from the first trial's start to the last one's end."""
    records: list[dict] = []

    def keep(finished, _running):
        records[:] = finished

    space = parse_space(SPACE, "benchmark")
    storage = f"sqlite:///{folder / f'{workers}.db'}"
    run_search(space, storage, "s", workers=workers, trials=trials, cache=cache, on_poll=keep)
    begun = min(r["started"] for r in records)
    ended = max(r["started"] + r["seconds"] for r in records)
    return 60 * len(records) / (ended - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--trials", type=int, default=12)
    arguments = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(temporary) / "cache"
        prepare("mnist-cnn", cache=cache)
        for turn in range(arguments.turns):
            folder = Path(temporary) / str(turn)
            folder.mkdir()
            one, two = (rate(folder, cache, workers, arguments.trials) for workers in (1, 2))
            ratios.append(two / one)
            print(f"one worker {one:.1f} trials/min, two {two:.1f}: {two / one:.2f}x", flush=True)
    print(f"median {statistics.median(ratios):.2f}x over {len(ratios)} turns")


if __name__ == "__main__":
    main()
