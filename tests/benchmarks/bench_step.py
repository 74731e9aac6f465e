"""What a training step costs beside the full-precision one, NNI's wrappers included: python -m tests.benchmarks.bench_step.

One thread, batch 32, Adamax, real digits. The variants take turns in blocks of steps, so that a change of the machine's
speed meets all of them; printed are the median ratio to the full-precision block of the same turn, and its quartiles.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import nni
import torch
import torch.nn.functional as F
from nni.compression.quantization import LsqQuantizer, QATQuantizer
from nni.compression.utils import TorchEvaluator

from ttq_plugin import ATTQQuantizer, PTTQQuantizer, TTQQuantizer
from ttq_plugin.tasks import get_task

LAYERS = ["conv1", "conv2"]


def training_step(batch, model):
    return F.cross_entropy(model(batch[0]), batch[1])


def captured_step(quantizer_class, dtype: str) -> Callable:
    """A function that does one training step as the quantizer's evaluator would."""
    captured = {}

    def loop(model, optimizer, step, *_):
        captured.update(model=model, optimizer=optimizer, loss=step, update=optimizer.step)

    torch.manual_seed(0)
    model = get_task("mnist-cnn").model()
    optimizer = nni.trace(torch.optim.Adamax)(model.parameters(), lr=1e-3)
    if quantizer_class is None:
        loop(model, optimizer, training_step)
    else:
        config = [{"op_names": LAYERS, "target_names": ["weight"], "quant_dtype": dtype}]
        quantizer = quantizer_class(model, config, TorchEvaluator(loop, optimizer, training_step))
        quantizer.compress(None, 1)
    captured["model"].train()

    def run(batch) -> None:
        captured["optimizer"].zero_grad()
        captured["loss"](batch, captured["model"]).backward()
        captured["update"]()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--steps", type=int, default=50, help="steps in a block")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train = get_task("mnist-cnn").load(None, 0).train
    batches = [(train.x[i : i + 32], train.y[i : i + 32]) for i in range(0, 32 * arguments.steps, 32)]
    variants = {
        "full precision": captured_step(None, ""),
        "ttq": captured_step(TTQQuantizer, "int2"),
        "attq": captured_step(ATTQQuantizer, "int2"),
        "pttq": captured_step(PTTQQuantizer, "int2"),
        "NNI LSQ int2": captured_step(LsqQuantizer, "int2"),
        "NNI QAT int8": captured_step(QATQuantizer, "int8"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(arguments.turns + 2):
        for name, run in variants.items():
            started = time.perf_counter()
            for batch in batches:
                run(batch)
            if turn >= 2:
                seconds[name].append((time.perf_counter() - started) / len(batches))
    base = seconds["full precision"]
    print(f"MNIST CNN, batch 32, one thread, {arguments.turns} turns of {arguments.steps} steps")
    for name, values in seconds.items():
        ratios = sorted(v / b for v, b in zip(values, base, strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name:16} {1e3 * statistics.median(values):7.3f} ms   {middle:5.2f}x  (quartiles {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
