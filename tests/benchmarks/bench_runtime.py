"""The runtime beside onnxruntime and torch, one core: python -m tests.benchmarks.bench_runtime.

The ESR 2D CNN with conv2 to conv4 ternary by a threshold on random weights, or a packed file. Everything runs in turn
in one process on one thread, single samples in blocks of nine of which the least counts; printed are medians and
quartiles of the ratio within a turn, and the roofline: additions a sample that are needed, and additions a second that
were reached, in the ternary layers and in the whole. Needs onnx and onnxruntime.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from ttq_plugin import TernaryRuntime, load_packed
from ttq_plugin.tasks import get_task

LAYERS = ("conv2", "conv3", "conv4")


def thresholded(zeros: float) -> torch.nn.Module:
    """The model with a share of zeros, random elsewhere."""
    torch.manual_seed(0)
    model = get_task("esr-2dcnn").model()
    for _ in range(3):  # BatchNorm statistics
        model(torch.randn(16, 1, 32, 37))
    with torch.no_grad():
        for name in LAYERS:
            weight = model.get_submodule(name).weight
            bound = weight.abs().flatten().kthvalue(max(1, round(zeros * weight.numel()))).values
            size = weight.abs().mean()
            weight.copy_(torch.where(weight.abs() > bound, weight.sign() * size, 0.0))
    return model.eval()


def onnx_session(model: torch.nn.Module, x: torch.Tensor, path: Path):
    """onnxruntime's fp32 session on one thread."""
    import onnxruntime

    torch.onnx.export(
        model, (x,), str(path), dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}}, opset_version=17
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zeros", type=float, nargs="+", default=[0.942, 0.89, 0.5])
    parser.add_argument("--model", type=Path, help="a packed file instead")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--turns", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for zeros in [None] if arguments.model else arguments.zeros:
        model = load_packed(arguments.model) if arguments.model else thresholded(zeros)
        shape = get_task("esr-2dcnn").shape
        with tempfile.TemporaryDirectory() as folder:
            session = onnx_session(model, torch.randn(2, *shape), Path(folder, "m.onnx"))
        for batch in arguments.batches:
            compare(model, session, torch.randn(batch, *shape), max(5, arguments.turns // batch), zeros)


def compare(model: torch.nn.Module, session, x: torch.Tensor, turns: int, zeros: float | None) -> None:
    """One row of the table."""
    runtime = TernaryRuntime(model, x)
    array = x.numpy()
    ways = {
        "runtime": lambda: runtime(x),
        "onnxruntime": lambda: session.run(None, {"x": array}),
        "torch": lambda: model(x),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        difference = float((runtime(x) - model(x)).abs().max() / model(x).abs().max())
        for turn in range(turns + 2):
            for name, run in ways.items():
                block = []
                for _ in range(1 + 8 // len(x)):  # its own weights in the cache, not the others'
                    started = time.perf_counter()
                    run()
                    block.append(time.perf_counter() - started)
                if turn >= 2:
                    seconds[name].append(min(block))
    print(f"zeros {zeros}, batch {len(x)}, {turns} turns, outputs differ by {difference:.1e}", flush=True)
    for name, values in seconds.items():
        ratios = sorted(v / r for v, r in zip(values, seconds["runtime"], strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"  {name:12} median {1e6 * statistics.median(values) / len(x):8.1f} us a sample, least "
            f"{1e6 * min(values) / len(x):8.1f}; x runtime {middle:6.2f} (quartiles {low:.2f} to {high:.2f}), "
            f"least by least {min(values) / min(seconds['runtime']):.2f}"
        )
    rows = [row for row in next(r for size, r in runtime.table.items() if size >= len(x)) if row.additions]
    if rows:
        size = max(s for s in runtime.table)
        needed = sum(row.additions for row in rows)
        inside = sum(row.seconds for row in rows) / size
        print(
            f"  roofline: {needed / 1e6:.2f} M additions a sample needed; reached {needed / inside / 1e9:.1f} G a "
            f"second in the ternary layers, {needed * len(x) / min(seconds['runtime']) / 1e9:.1f} G in the whole"
        )
    print("  " + ", ".join(f"{row.name} {row.choice.kind}" for row in runtime.table[max(runtime.table)]), flush=True)


if __name__ == "__main__":
    main()
