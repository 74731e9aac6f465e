"""The runtime on integers beside onnxruntime, one core: python -m tests.benchmarks.bench_integers.

The ESR 2D CNN with conv2 to conv4 ternary on random weights, two scales a layer, calibrated on random samples, or a
packed file. All ways have turns of some milliseconds in one process on one thread, by the clock of that process, which
other programs do not move; printed are medians and quartiles of the ratio to the runtime on integers within a turn.
Needs onnx and onnxruntime.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tests.benchmarks.bench_runtime import LAYERS
from tests.benchmarks.turns import ratios, take_turns
from tests.deploy.nets import ternarise
from ttq_plugin import TernaryRuntime, integerize, load_packed
from ttq_plugin.deploy.onnx.dense import to_onnx
from ttq_plugin.deploy.onnx.int8 import to_int8
from ttq_plugin.tasks import get_task

INTEGERS, FLOATS, FP32, INT8 = "integers", "floats", "onnxruntime fp32", "onnxruntime int8"
TURN = 5e-3
"""Seconds of a turn of each way, about."""


def network(zeros: float) -> torch.nn.Module:
    """The model with a share of zeros, random elsewhere."""
    torch.manual_seed(0)
    model = get_task("esr-2dcnn").model()
    for _ in range(3):  # BatchNorm statistics
        model(torch.randn(16, 1, 32, 37))
    for name in LAYERS:
        ternarise(model.get_submodule(name).weight, zeros)
    return model.eval()


def session_of(proto, threads: int = 1):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def ways_of(model: torch.nn.Module, calibration: torch.Tensor, floats: bool) -> dict[str, Callable]:
    """Name -> a function of a batch."""
    proto = to_onnx(model, calibration[:2])
    found: dict[str, Callable] = {
        INTEGERS: TernaryRuntime(integerize(model, calibration), calibration[:8], integer=True)
    }
    for name, form in ((FP32, proto), (INT8, to_int8(proto, calibration))):
        session = session_of(form)
        key = session.get_inputs()[0].name
        found[name] = lambda x, session=session, key=key: session.run(None, {key: x.numpy()})
    if floats:
        found[FLOATS] = TernaryRuntime(model, calibration[:8], onnxruntime=False)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zeros", type=float, nargs="+", default=[0.942, 0.89, 0.7, 0.5, 0.3])
    parser.add_argument("--model", type=Path, help="a packed file of the same task instead")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each row")
    parser.add_argument("--floats", action="store_true", help="the runtime on floats too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for zeros in [None] if arguments.model else arguments.zeros:
        model = load_packed(arguments.model) if arguments.model else network(zeros)
        with torch.inference_mode(False), torch.no_grad():
            ways = ways_of(model, torch.randn(64, *get_task("esr-2dcnn").shape), arguments.floats)
        for batch in arguments.batches:
            compare(ways, torch.randn(batch, *get_task("esr-2dcnn").shape), arguments.seconds, zeros)


def compare(ways: dict[str, Callable], x: torch.Tensor, seconds: float, zeros: float | None) -> None:
    """One row of the table."""
    steps = max(1, round(TURN / (2e-4 * len(x))))
    with torch.inference_mode():
        found = take_turns(
            {n: lambda w=w: w(x) for n, w in ways.items()}, 100_000, steps, seconds=seconds, clock=time.process_time
        )
    print(f"zeros {zeros}, batch {len(x)}, {len(found[INTEGERS])} turns of {steps}", flush=True)
    for name, (low, middle, high) in ratios(found, INTEGERS).items():
        microseconds = 1e6 * statistics.median(found[name]) / len(x)
        print(f"  {name:18} {microseconds:8.1f} us a sample; {middle:5.2f} x (quartiles {low:.2f} to {high:.2f})")
    runtime = ways[INTEGERS]
    rows = runtime.table[runtime.size(len(x))]
    kinds = [
        f"{r.name} {r.choice.kind} {r.choice.vectors}/{r.choice.chunk} {1e6 * r.seconds / len(x):.1f}" for r in rows
    ]
    print("  " + ", ".join(kinds), flush=True)


if __name__ == "__main__":
    main()
