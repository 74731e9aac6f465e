"""What a probe of the default trace estimate costs in training steps, and its squared error at equal time.

``python -m tests.benchmarks.bench_trace_steps cost [--net resnet18] [--batch 8]`` measures the cost on the twenty
networks at their full sizes; ``error`` the squared error beside that of one product over all layers and of one a layer,
on networks that are small, or made so, after a short training. One thread; times are CPU time.

A training step is a forward and a backward pass in training mode, without the optimiser. The cost of a probe is that of
a whole call, looks and graphs included, over probes and batches. An error is the variance of a layer's estimate (from
the probes' spread, which tests/curvature shows to be what it says) times the time of a probe: it is what a second buys.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.zoo import networks as zoo
from ttq_plugin.curvature import Traces, layer_traces
from ttq_plugin.support import inputs

SAMPLES, STEPS = 64, 100
"""Random samples of a training, and its steps."""


def seconds(call: Callable[[], Any]) -> float:
    """CPU time of a call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def inputs_of(name: str, count: int) -> tuple[Any, Any]:
    """Random inputs, in the project's convention, and targets."""
    _, make, targets = zoo.cases().NETS[name]
    x = make(count)
    return ((x,) if isinstance(x, dict) else x), targets(count)


def step(model: nn.Module, x: Any, y: Any) -> None:
    """Forward and backward."""
    zoo.cases().ce(inputs.call(model.train(), x), y).backward()
    model.zero_grad(set_to_none=True)


def cost(name: str, batch: int, probes: int, batches: int) -> str:
    """Training steps a probe and batch, measured and as announced."""
    torch.manual_seed(0)
    model, data = zoo.cases().NETS[name][0](), [inputs_of(name, batch) for _ in range(batches)]
    step(model, *data[0])
    one = statistics.median(seconds(lambda: step(model, *data[0])) for _ in range(5))
    told: list[Any] = []
    found: list[Traces] = []

    def call() -> None:
        found.append(
            layer_traces(model, zoo.cases().ce, data, max_probes=probes, on_probe=lambda cost, _: told.append(cost))
        )

    taken = seconds(call) / (probes * batches) / one
    layers, products = len(found[0]), found[0].products
    return f"| {name} | {layers} | {products} | {told[0].steps:.1f} | {taken:.1f} |"


def trained(name: str, batch: int) -> tuple[nn.Module, Any, Any]:
    """A small network after a short training on random samples, and one batch of them."""
    model = zoo.network(name)
    x, y = zoo.data(name, SAMPLES)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    model.train()
    for _ in range(STEPS):
        rows = torch.randperm(SAMPLES)[:batch]
        optimizer.zero_grad()
        zoo.cases().ce(inputs.call(model, inputs.index(x, rows)), y[rows]).backward()
        optimizer.step()
    return model, inputs.index(x, slice(batch)), y[:batch]


def error(name: str, batch: int, probes: int) -> str:
    """Squared error at equal time: default / joint, default / a product a layer; over layers, and of the better."""
    model, x, y = trained(name, batch)
    runs = {}
    for joint in (None, True, False):
        started = time.process_time()
        found = layer_traces(model, zoo.cases().ce, (x, y), max_probes=probes, joint=joint)
        taken = time.process_time() - started
        runs[joint] = found, [layer.standard_error**2 * taken for layer in found]
    ratios = {}
    for joint in (True, False):
        pairs = zip(runs[None][1], runs[joint][1], strict=True)
        ratios[joint] = [a / b for a, b in pairs if b > 0]
    better = min(ratios, key=lambda joint: -statistics.geometric_mean(ratios[joint]))
    return (
        f"| {name} | {len(runs[None][0])} | {runs[None][0].products} | {spread(ratios[True])} | "
        f"{spread(ratios[False])} | {statistics.geometric_mean(ratios[better]):.2f} |"
    )


def spread(ratios: list[float]) -> str:
    """Median (quartiles)."""
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2g} ({low:.2g} to {high:.2g})"


def main() -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("cost", "error"))
    parser.add_argument("--net", action="append", choices=zoo.NAMES)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--probes", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.table == "cost":
        columns = ("network", "layers", "products a probe", "training steps a probe, announced", "measured")
        print(f"| {' | '.join(columns)} |\n" + "|---" * 5 + "|")
    else:
        print(
            "| network | layers | products | / one product | / a product a layer | / the better, mean |\n"
            + "|---" * 6
            + "|"
        )
    for name in options.net or zoo.NAMES:
        if options.table == "cost":
            print(cost(name, options.batch, options.probes, options.batches), flush=True)
        else:
            print(error(name, options.batch, max(options.probes, 32)), flush=True)


if __name__ == "__main__":
    main()
