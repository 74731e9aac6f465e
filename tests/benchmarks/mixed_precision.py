"""A method per layer: how small a mixed model becomes, in real bits, and what it scores beside full precision.

``python -m tests.benchmarks.mixed_precision --data FILE``; for each seed: full precision (from the cache, or trained),
its Hessian traces, the choice among the methods under a budget of bits, one training of the whole chain. Everything is
decided on validation data; the test split is looked at once, at the end. Real bits: ternary weights at 1.6 bits
(base3: five trits a byte), integer ones at their width, scales and all other parameters at 32.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from pathlib import Path

import torch

from ttq_plugin.curvature import Budget, select
from ttq_plugin.methods import MIXED
from ttq_plugin.trial.run import Settings, prepare, run, score_on_test


def one_seed(arguments: argparse.Namespace, seed: int) -> tuple[float, float, float]:
    """(CR_G^T in real bits, test MCC of full precision, of the mixed model) of one seed, in percent."""
    started = time.perf_counter()
    ready = prepare(arguments.task, seed=seed, data=arguments.data, cache=arguments.cache)
    bits = 32 * sum(p.numel() for p in ready.model.parameters())
    options = {m: {"t_min": arguments.t, "t_max": arguments.t} for m in arguments.methods if m == "pttq"}
    budget = Budget(bits=arguments.bits * bits)
    chosen = select(ready.model, ready.traces, budget, methods=arguments.methods, options=options)
    settings = Settings(arguments.task, MIXED, lr=arguments.lr, epochs=arguments.epochs, seed=seed)
    outcome = run(ready, settings, chain=chosen.chain)
    full, mixed = score_on_test(arguments.task, [ready.model, outcome.model], seed=seed, data=arguments.data)
    gain = outcome.report.cr_gain("base3")
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(chosen.methods.values()).most_common())
    print(
        f"seed {seed}: CR_G^T {100 * gain:.2f} % (coo34 {100 * outcome.report.cr_gain_total:.2f} %); {kinds}; MCC "
        f"validation {100 * ready.score:.2f} -> {100 * outcome.metrics['mcc']:.2f}, test {100 * full:.2f} -> "
        f"{100 * mixed:.2f}; optimality gap {chosen.gap:.1g}; {time.perf_counter() - started:.0f} s",
        flush=True,
    )
    for name, method in chosen.methods.items():
        print(f"    {name:28} {method}")
    for text in outcome.notes:
        print(f"    note: {text}")
    return 100 * gain, 100 * full, 100 * mixed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="esr-cnn-transformer")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--methods", nargs="+", default=["int8", "int4", "pttq"])
    parser.add_argument("--bits", type=float, default=0.24, help="of the full-precision model's, at most")
    parser.add_argument("--t", type=float, default=1.0, help="pTTQ's initial thresholds, in standard deviations")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [one_seed(arguments, seed) for seed in arguments.seeds]
    if len(rows) > 1:
        gains, changes = [row[0] for row in rows], [row[2] - row[1] for row in rows]
        print(
            f"{arguments.task}, {len(rows)} seeds: CR_G^T {statistics.mean(gains):.2f} +- {statistics.stdev(gains):.2f}"
            f" %, test MCC change {statistics.mean(changes):+.2f} +- {statistics.stdev(changes):.2f} points"
        )


if __name__ == "__main__":
    main()
