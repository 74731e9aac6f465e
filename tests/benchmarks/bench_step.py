"""What a training step costs beside the full-precision one, NNI's wrappers included.

``python -m tests.benchmarks.bench_step``; one thread, batch 32, Adamax. The variants take turns in blocks of steps, so
that a change of the machine's speed meets all of them; printed are the median ratio to the full-precision block of the
same turn, and its quartiles, and by how much a step raises the allocated memory at its peak. ``--net mnist-cnn`` is
small layers and real digits, where the number of operations counts; ``--net esr-2dcnn`` is 1.55 M weights and random
inputs, where the arithmetic does. ``TTQ_NATIVE=0`` in the environment measures the torch path.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import nni
import torch
import torch.nn.functional as F
from nni.compression.quantization import LsqQuantizer, QATQuantizer
from nni.compression.utils import TorchEvaluator
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ttq_plugin import ATTQQuantizer, PTTQQuantizer, TTQQuantizer
from ttq_plugin.native import training as native
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.builtin.cnn2d import CNN2D


def digits(steps: int) -> list:
    train = get_task("mnist-cnn").load(None, 0).train
    return [(train.x[i : i + 32], train.y[i : i + 32]) for i in range(0, 32 * steps, 32)]


def noise(steps: int) -> list:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(32, 1, 32, 37, generator=generator), torch.randint(2, (32,), generator=generator))
        for _ in range(steps)
    ]


@dataclass(frozen=True)
class Net:
    model: Callable[[], nn.Module]
    batches: Callable[[int], list]
    layers: list[str]
    turns: int
    steps: int


NETS = {
    "mnist-cnn": Net(lambda: get_task("mnist-cnn").model(), digits, ["conv1", "conv2"], 40, 50),
    "esr-2dcnn": Net(CNN2D, noise, ["conv2", "conv3", "conv4"], 12, 4),
}


def training_step(batch, model):
    return F.cross_entropy(model(batch[0]), batch[1])


def captured_step(quantizer_class, dtype: str, net: Net = NETS["mnist-cnn"]) -> Callable:
    """A function that does one training step as the quantizer's evaluator would."""
    captured = {}

    def loop(model, optimizer, step, *_):
        captured.update(model=model, optimizer=optimizer, loss=step, update=optimizer.step)

    torch.manual_seed(0)
    model = net.model()
    optimizer = nni.trace(torch.optim.Adamax)(model.parameters(), lr=1e-3)
    if quantizer_class is None:
        loop(model, optimizer, training_step)
    else:
        config = [{"op_names": net.layers, "target_names": ["weight"], "quant_dtype": dtype}]
        quantizer = quantizer_class(model, config, TorchEvaluator(loop, optimizer, training_step))
        quantizer.compress(None, 1)
    captured["model"].train()

    def run(batch) -> None:
        captured["optimizer"].zero_grad()
        captured["loss"](batch, captured["model"]).backward()
        captured["update"]()

    return run


def peak(run: Callable, batch) -> int:
    """Bytes that a step allocates at its peak beyond what was allocated before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run(batch)
    moves = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    moves.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in moves))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=NETS, default="mnist-cnn")
    parser.add_argument("--turns", type=int)
    parser.add_argument("--steps", type=int, help="steps in a block")
    arguments = parser.parse_args()
    net = NETS[arguments.net]
    turns, steps = arguments.turns or net.turns, arguments.steps or net.steps
    torch.set_num_threads(1)
    batches = net.batches(steps)
    variants = {
        "full precision": captured_step(None, "", net),
        "ttq": captured_step(TTQQuantizer, "int2", net),
        "attq": captured_step(ATTQQuantizer, "int2", net),
        "pttq": captured_step(PTTQQuantizer, "int2", net),
        "NNI LSQ int2": captured_step(LsqQuantizer, "int2", net),
        "NNI QAT int8": captured_step(QATQuantizer, "int8", net),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(turns + 2):
        for name, run in variants.items():
            started = time.perf_counter()
            for batch in batches:
                run(batch)
            if turn >= 2:
                seconds[name].append((time.perf_counter() - started) / len(batches))
    peaks = {name: peak(run, batches[0]) for name, run in variants.items()}
    base, base_peak = seconds["full precision"], peaks["full precision"]
    how = "native kernels" if native.kernels_for(torch.ones(1)) else "torch"
    print(f"{arguments.net}, batch 32, one thread, {turns} turns of {steps} steps, {how}")
    for name, values in seconds.items():
        ratios = sorted(v / b for v, b in zip(values, base, strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{name:16} {1e3 * statistics.median(values):8.3f} ms {middle:6.3f}x  (quartiles {low:.3f} to {high:.3f})"
            f"   peak {peaks[name] / 2**20:7.2f} MiB {peaks[name] / base_peak:6.3f}x"
        )


if __name__ == "__main__":
    main()
