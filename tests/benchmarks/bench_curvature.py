"""All layers' Hessian traces by one estimate, beside PyHessian; and how stable the layers' ranking is.

``python -m tests.benchmarks.bench_curvature [--net mnist-cnn] [--probes 8] [--turns 7] [--trained --data FILE]``; one
thread, one batch, equal probes, building the graph included. Times are CPU time, and the calls take turns, so that
neither other processes nor a change of the machine's speed counts for one of them; printed are the median ratios within
a turn, and their quartiles. Without ``--trained`` models are as initialised and inputs random; with it, models are the
tasks' full-precision ones (trained where the cache has none) and the batch is the first of their training data.

PyHessian knows the trace of a whole model only. Run layer by layer, it can mean two things, and both are measured:
`frozen`, a `hessian` object a layer, made and traced while no other parameter requires gradients (products stop at that
layer); and `masked`, one product over the whole model a layer and probe, its vector zero outside the layer.
"""

import argparse
import itertools
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pyhessian import hessian
from pyhessian.utils import hessian_vector_product
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ttq_plugin.curvature import Traces, layer_traces
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.full_precision import full_precision

NEVER_EARLY = -math.inf  # tol=0 stops as soon as the running mean is negative: PyHessian divides by it, signed
SEEDS = range(5)
NETS = {
    "mnist-cnn": ((1, 20, 20), 10, 128),
    "esr-2dcnn": ((1, 32, 37), 2, 32),
    "esr-cnn-transformer": ((1, 178), 2, 64),
}
"""Task -> shape of a sample, classes, size of the batch."""


@dataclass(frozen=True)
class Case:
    """What is measured on."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    x: Tensor
    y: Tensor

    @property
    def weights(self) -> list[nn.Parameter]:
        """Those of `layer_traces`, none of them shared."""
        layers = (nn.Conv1d, nn.Conv2d, nn.Linear)
        return [module.weight for module in self.model.modules() if isinstance(module, layers)]

    def traces(self, **options: Any) -> Traces:
        """Ours."""
        return layer_traces(self.model, self.loss, (self.x, self.y), **options)


def case(name: str, trained: bool, data: Path | None) -> Case:
    """A task's network and one batch."""
    task, (shape, classes, size) = get_task(name), NETS[name]
    torch.manual_seed(0)
    if not trained:
        return Case(task.model(), task.loss, torch.randn(size, *shape), torch.randint(classes, (size,)))
    splits = task.load(data if name.startswith("esr") else None, 0)
    model = full_precision(task, splits, seed=0).model
    loss = task.loss_for(splits.train)
    return Case(model, loss, splits.train.x[:size], splits.train.y[:size])


def joint(case: Case, probes: int) -> None:
    """Ours, one product a probe for all layers."""
    case.traces(max_probes=probes, joint=True)


def single(case: Case, probes: int) -> None:
    """Ours, one product a probe and layer on one graph."""
    case.traces(max_probes=probes, joint=False)


def whole(case: Case, probes: int) -> None:
    """PyHessian's trace of all parameters that require gradients."""
    hessian(case.model, case.loss, data=(case.x, case.y), cuda=False).trace(maxIter=probes, tol=NEVER_EARLY)
    case.model.zero_grad(set_to_none=True)


def frozen(case: Case, probes: int) -> None:
    """PyHessian a layer at a time, everything else frozen."""
    for weight in case.weights:
        for parameter in case.model.parameters():
            parameter.requires_grad_(parameter is weight)
        whole(case, probes)
    case.model.requires_grad_(True)


def masked(case: Case, probes: int) -> None:
    """PyHessian a layer at a time, products over the whole model with a vector that is zero elsewhere."""
    graph = hessian(case.model, case.loss, data=(case.x, case.y), cuda=False)
    for weight, _ in itertools.product(case.weights, range(probes)):
        vector = [2.0 * torch.randint_like(p, 2) - 1 if p is weight else torch.zeros_like(p) for p in graph.params]
        products = hessian_vector_product(graph.gradsH, graph.params, vector)
        sum(torch.sum(v * p).item() for v, p in zip(vector, products, strict=True))
    case.model.zero_grad(set_to_none=True)


CALLS = (joint, single, whole, frozen, masked)


def costs(case: Case, probes: int, turns: int) -> dict[str, list[float]]:
    """CPU seconds of each call in each turn; the first turn warms up."""
    times: dict[str, list[float]] = {call.__name__: [] for call in CALLS}
    for turn in range(turns + 1):
        for call in CALLS:
            start = time.process_time()
            with sdpa_kernel(SDPBackend.MATH):  # without it PyHessian fails on attention; ours brings its own
                call(case, probes)
            if turn:
                times[call.__name__].append(time.process_time() - start)
    return times


def spread(ratios: list[float]) -> str:
    """Median (quartiles)."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:6.2f} ({low:.2f} to {high:.2f})"


def agreement(runs: list[Traces]) -> str:
    """Spearman's correlation of trace / weight between seeds: mean and least of all pairs."""
    orders = [[layer.trace_per_weight for layer in run] for run in runs]
    found = [float(spearmanr(a, b).statistic) for a, b in itertools.combinations(orders, 2)]
    return f"{statistics.mean(found):.3f}, least {min(found):.3f}"


def errors(runs: list[Traces]) -> list[float]:
    """Root mean square of the standard errors over seeds, a layer."""
    return [math.sqrt(statistics.mean(run[i].standard_error ** 2 for run in runs)) for i in range(len(runs[0]))]


def precision(case: Case, probes: int, cost: float) -> None:
    """Print rankings and errors of both modes at equal probes and at equal time; `cost` of a probe, single / joint."""
    more = max(2, round(probes * cost))
    runs = {
        (name, n): [case.traces(max_probes=n, joint=name == "joint", seed=seed) for seed in SEEDS]
        for name, n in (("joint", probes), ("joint", more), ("single", probes))
    }
    for (name, n), found in runs.items():
        relative = [e / abs(statistics.mean(r[i].trace for r in found)) for i, e in enumerate(errors(found))]
        print(
            f"  {name:6} {n:4} probes: Spearman over {len(SEEDS)} seeds {agreement(found)}; standard error / |trace| "
            f"median {statistics.median(relative):.2f}, worst {max(relative):.2f}"
        )
    pairs = zip(errors(runs["joint", more]), errors(runs["single", probes]), strict=True)
    gains = sorted((a / b) ** 2 for a, b in pairs)
    print(
        f"  at equal time, squared error joint / single: geometric mean {statistics.geometric_mean(gains):.1f}, "
        f"layers {gains[0]:.2g} to {gains[-1]:.2g}"
    )


def main() -> None:
    """Print ratios of cost, then rankings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", action="append", choices=NETS)
    parser.add_argument("--probes", type=int, default=8, help="of the timed calls")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--ranking", type=int, default=32, help="probes of the ranking; 0 leaves it out")
    parser.add_argument("--trained", action="store_true", help="trained models and their data")
    parser.add_argument("--data", type=Path, help="the ESR file, for --trained")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Using backward")
    for name in options.net or NETS:
        measured = case(name, options.trained, options.data)
        times = costs(measured, options.probes, options.turns)
        layers = len(measured.weights)
        print(
            f"{name}{' trained' if options.trained else ''}: {layers} layers, batch {len(measured.x)}, "
            f"{options.probes} probes; a joint call {statistics.median(times['joint']):.2f} s"
        )
        for call in (joint, single, frozen):
            ratios = [a / b for a, b in zip(times[call.__name__], times["whole"], strict=True)]
            print(f"  {call.__name__:6} / whole:  {spread(ratios)}")
        for call in (frozen, masked):
            ratios = [a / b for a, b in zip(times[call.__name__], times["joint"], strict=True)]
            print(f"  {call.__name__:6} / joint:  {spread(ratios)}; layers / 1.3 is {layers / 1.3:.1f}")
        if options.ranking:
            precision(measured, options.ranking, statistics.median(times["single"]) / statistics.median(times["joint"]))


if __name__ == "__main__":
    main()
