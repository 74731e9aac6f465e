"""Which surrogate gradient teaches thresholds better: python -m tests.benchmarks.compare_surrogates (about 6 minutes).

pTTQ on all layers of the MNIST CNN, both surrogates, three seeds, several initial thresholds. The two end at other zero
shares, so MCC is compared at equal SRQW, by linear interpolation along each seed's own curve. Validation data only.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch

STARTS = (0.75, 1.25, 1.75, 2.25)
SHARES = (0.65, 0.75, 0.85)


def compress(arguments: tuple[str, int, float, int]) -> tuple[str, int, float, float]:
    """(surrogate, seed, MCC change against full precision, SRQW) of one run."""
    from ttq_plugin.nni_adapter import PTTQQuantizer
    from ttq_plugin.trial.run import Settings, prepare, run

    surrogate, seed, t, epochs = arguments
    torch.set_num_threads(1)
    ready = prepare("mnist-cnn", seed=seed)
    settings = Settings(
        "mnist-cnn", "pttq", t_min=t, t_max=t, lr=2e-3, lr_threshold=1e-3, epochs=epochs, share=1.0, seed=seed
    )
    original = PTTQQuantizer.__init__

    def with_surrogate(self, *args, **kwargs):
        original(self, *args, **kwargs, surrogate=surrogate)

    PTTQQuantizer.__init__ = with_surrogate
    try:
        outcome = run(ready, settings)
    finally:
        PTTQQuantizer.__init__ = original
    return surrogate, seed, outcome.metrics["mcc"] - ready.score, outcome.metrics["srqw"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    jobs = [(name, seed, t, arguments.epochs) for seed in seeds for t in STARTS for name in ("soft", "weak")]
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(compress, jobs))
    print(f"{'surrogate':10} {'seed':>4} {'SRQW':>8} {'MCC change':>11}")
    for name, seed, mcc, srqw in sorted(results, key=lambda r: (r[0], r[1], r[3])):
        print(f"{name:10} {seed:4} {100 * srqw:7.2f}% {100 * mcc:+10.2f}")
    print(f"\nMCC change in points at equal SRQW, mean +- standard deviation over {arguments.seeds} seeds")
    for name in ("soft", "weak"):
        cells = []
        for share in SHARES:
            curves = [sorted((s, m) for n, k, m, s in results if n == name and k == seed) for seed in seeds]
            inside = [c for c in curves if c[0][0] <= share <= c[-1][0]]
            values = [100 * np.interp(share, *zip(*c, strict=True)) for c in inside]
            cells.append(f"{np.mean(values):+.2f} +- {np.std(values, ddof=1):.2f}" if len(values) > 1 else "outside")
        print(f"{name:10} " + "   ".join(f"{100 * s:.0f} %: {c}" for s, c in zip(SHARES, cells, strict=True)))


if __name__ == "__main__":
    main()
