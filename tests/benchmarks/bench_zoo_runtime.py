"""The runtime beside torch and onnxruntime on the zoo, one thread: python -m tests.benchmarks.bench_zoo_runtime.

Tensors in, tensors out, in turns in one process, by the processor's time. Printed are the medians and quartiles, within
a turn, of the better one's time by the runtime's: 1 is as fast as the better of torch and onnxruntime, more is faster.
Needs onnxruntime.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import torch
from torch import nn

from tests.measures.nets import set_codes
from tests.zoo import networks as zoo
from ttq_plugin import TernaryRuntime
from ttq_plugin.deploy.runtime.engine import engine_of
from ttq_plugin.support.inputs import call, tensors

KINDS = {nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear}
"""Layers that are ternary."""

clock = time.process_time
"""Of the processor: everything runs on one thread, and other programs on the machine do not count."""


def network(name: str, zeros: float | None) -> nn.Module:
    """At its full size, its larger convolutions and linear layers ternary with so many zeros; None: full precision."""
    model = zoo.network(name, full=True).eval()
    for module in model.modules():
        if zeros is not None and type(module) in KINDS and module.weight.numel() >= 1000:
            gain = module.weight[0].numel() ** -0.5 / (1 - zeros) ** 0.5
            set_codes(module.weight, round(zeros * module.weight.numel()), gain, 0.8 * gain)
    return model


def timed(ways, seconds: float) -> dict[str, list[float]]:
    """Least times of blocks, in turns, for about so many seconds."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run()
    started = clock()
    run()
    block = max(1, min(20, int(2e-3 / (clock() - started))))
    ended = time.perf_counter() + seconds
    while time.perf_counter() < ended or len(found["torch"]) < 9:
        for name, run in ways.items():
            least = float("inf")
            for _ in range(block):
                started = clock()
                run()
                least = min(least, clock() - started)
            found[name].append(least)
    return found


def compare(name: str, zeros: float | None, batch: int, seconds: float) -> None:
    """One row of the table."""
    model, x = network(name, zeros), zoo.samples(name, batch, full=True)
    started = clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runtime = TernaryRuntime(model, x)
    made = clock() - started
    ways = {"runtime": lambda: runtime(x), "torch": lambda: call(model, x)}
    engine = runtime._engine or engine_of(model, x)
    if engine is not None:
        session, given = engine.session, [name for _, name in engine._places]
        single = isinstance(call(model, x), torch.Tensor)

        def by_onnxruntime():
            """As a user writes it."""
            found = session.run(None, {name: each.numpy() for name, each in zip(given, tensors(x), strict=True)})
            return torch.from_numpy(found[0]) if single else [torch.from_numpy(each) for each in found]

        ways["onnxruntime"] = by_onnxruntime
    with torch.inference_mode():
        found = timed(ways, seconds)
    middle = {way: statistics.median(times) for way, times in found.items()}
    best = min((way for way in ways if way != "runtime"), key=middle.__getitem__)
    ratios = sorted(other / ours for other, ours in zip(found[best], found["runtime"], strict=True))
    low, median, high = statistics.quantiles(ratios, n=4)
    times = "".join(f"{1e6 * middle.get(way, float('nan')):10.0f}" for way in ("torch", "onnxruntime", "runtime"))
    runs = ", ".join(runtime.runs.values())
    print(f"{name:15} {batch:5}{times}  {median:5.2f} ({low:.2f} to {high:.2f})  {made:5.1f}  {runs}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=zoo.NAMES)
    parser.add_argument("--zeros", type=float, default=0.8, help="share of zeros in the ternary weights; below 0: none")
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=3, help="of each row")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("network         batch  torch us    ort us   ours us  better / ours      made s  runs as")
    for name in arguments.names:
        for batch in arguments.batches:
            compare(name, arguments.zeros if arguments.zeros >= 0 else None, batch, arguments.seconds)


if __name__ == "__main__":
    main()
