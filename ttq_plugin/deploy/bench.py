"""What a compressed model costs on this machine, beside torch and onnxruntime: everything in turns, in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ttq_plugin.deploy.energy import Counter, counters, joules
from ttq_plugin.deploy.footprint import peak_memory
from ttq_plugin.deploy.onnx_dense import OnnxModule, to_onnx
from ttq_plugin.deploy.onnx_int8 import to_int8
from ttq_plugin.deploy.packed import save_packed
from ttq_plugin.deploy.runtime import TernaryRuntime
from ttq_plugin.deploy.source import Source
from ttq_plugin.errors import InputError
from ttq_plugin.files import save_weights
from ttq_plugin.tasks.scores import score as scored
from ttq_plugin.tasks.task import Data

RUNTIME, RUNTIME8 = "ttq runtime", "ttq runtime int8"
TORCH, ONNX, INT8 = "torch fp32", "onnxruntime fp32", "onnxruntime int8"
BLOCK_SECONDS = 0.05
"""Calls of one way follow each other for so long, as in use; then the next way's turn comes."""

LEAST_TURNS, MOST_CALLS = 8, 100
ENERGY_SECONDS = 1.0
CALIBRATION, FEW = 256, 64
"""Training samples that int8 is calibrated on; and samples a call where no time counts: the runtime, which times its
layers for each size of batch, calibrates on as many."""

Call = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Way:
    """One way to run the model.

    Attributes:
        name: for people.
        call: runs it.
        file: what is shipped to run it so.
        child: how `footprint` names it.
    """

    name: str
    call: Call
    file: Path
    child: str


class InParts(nn.Module):
    """A callable as a module that can be scored, a few samples a call."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        """Whatever it gives."""
        return torch.cat([self.call(part) for part in x.split(FEW)])


def ways(source: Source, file: Path, data: Data | None, folder: Path, threads: int) -> tuple[list[Way], list[str]]:
    """The model in every form that can be made here.

    Args:
        source: the model.
        file: where it was read from.
        data: its task's, to calibrate int8 on; None: random samples.
        folder: for the files of the other forms.
        threads: of each.

    Returns:
        The ways, the runtime and torch first, and what a reader must know.
    """
    packed = file if source.packed else folder / "packed.safetensors"
    if not source.packed:
        save_packed(source.model, packed, task=source.task.name)
    floats = folder / "float.safetensors"
    save_weights(source.model, floats, {"task": source.task.name})
    samples = data.train.x[:CALIBRATION] if data else source.example(CALIBRATION)
    found = [
        Way(RUNTIME, TernaryRuntime(source.model, samples[:1], threads=threads), packed, "runtime"),
        Way(RUNTIME8, TernaryRuntime(source.model, samples[:FEW], threads=threads, int8=True), packed, "runtime8"),
        Way(TORCH, source.model, floats, "torch"),
    ]
    try:
        proto = to_onnx(source.model, source.example())
        forms = {ONNX: proto, INT8: to_int8(proto, samples)}
    except InputError as error:
        return found, [f"no onnxruntime beside: {error}"]
    for name, form in forms.items():
        path = folder / f"{name.replace(' ', '-')}.onnx"
        path.write_bytes(form.SerializeToString())
        found.append(Way(name, OnnxModule(form, threads=threads), path, "onnx"))
    notes = [] if data else ["int8 was calibrated on random samples: its times hold, its outputs mean nothing."]
    return found, notes


def bench(
    source: Source,
    file: Path,
    folder: Path,
    *,
    data: Data | None = None,
    batches: Sequence[int] = (1, 32),
    seconds: float = 4.0,
    threads: int = 1,
) -> dict[str, Any]:
    """Measure the model in every form.

    A call counts when the one before it was of the same form: the first of each block finds the caches filled by
    another and is left out. Ratios are taken within a turn, in which every form has one block.

    Args:
        source: the model, from ``open_model``.
        file: where it was read from.
        folder: for the files of the other forms; they stay there.
        data: the task's, for int8's calibration and for MCC; None: random samples, no MCC.
        batches: sizes of the batches.
        seconds: of calls of each form and batch size, about.
        threads: of every form.

    Returns:
        Plain data: ``forms``, a list of ``form``, ``file_bytes``, ``peak_memory_bytes`` (above the process that has
        loaded its libraries; None where the system does not tell), ``max_relative_difference`` from torch,
        ``mcc`` (validation; None without data) and ``batches``, a list of ``batch``, ``calls``, ``latency_median``,
        ``latency_p99`` (seconds a call), ``throughput`` (samples a second), ``speedup_torch`` (lower quartile,
        median, upper quartile of torch's time over its own) and ``joules`` a sample (None without a counter);
        ``notes``; ``layers``, how each form of the runtime runs them.
    """
    with _threads(threads), torch.inference_mode():
        found, notes = ways(source, file, data, folder, threads)
        energy = counters()
        if not energy:
            notes.append("energy: this machine shows no counter (RAPL) that may be read.")
        rows = [_row(way, source, data) for way in found]
        layers = []
        for batch in batches:
            x = source.example(batch) if data is None else data.validation.x[:batch]
            x = x.repeat(-(-batch // len(x)), *[1] * (x.dim() - 1))[:batch]
            calls = {way.name: way.call for way in found}
            for row, measured in zip(rows, _measured(calls, x, seconds, energy), strict=True):
                row["batches"].append({"batch": batch, **measured})
            for way in found:
                if isinstance(way.call, TernaryRuntime):
                    layers.append({"batch": batch, "form": way.name, "layers": _layers(way.call, batch)})
        for way, row in zip(found, rows, strict=True):
            row["peak_memory_bytes"] = peak_memory(way.child, way.file, source.task.shape, max(batches), threads)
    return {"forms": rows, "notes": notes, "layers": layers, "threads": threads}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _row(way: Way, source: Source, data: Data | None) -> dict[str, Any]:
    """What does not depend on the batch."""
    x = data.validation.x[:FEW] if data else source.example(FEW)
    expected = source.model(x)
    difference = float((way.call(x) - expected).abs().max() / expected.abs().max())
    score = scored(InParts(way.call).eval(), data.validation, source.task.score).value if data else None
    size = way.file.stat().st_size
    return {"form": way.name, "file_bytes": size, "max_relative_difference": difference, "mcc": score, "batches": []}


def _layers(runtime: TernaryRuntime, batch: int) -> list[dict[str, Any]]:
    """How each layer runs: `seconds` for so many `samples`; `additions` a sample, of a sparse one."""
    size = runtime.size(batch)
    return [
        {
            "layer": row.name,
            "runs_as": (kind := runtime.runs_as(row, size)),
            "seconds": row.seconds,
            "torch_seconds": row.torch_seconds,
            "samples": size,
            "additions": row.additions if kind == "sparse" else 0,
        }
        for row in runtime.table[size]
    ]


def _measured(
    calls: Mapping[str, Call], x: Tensor, seconds: float, energy: Sequence[Counter]
) -> Iterator[dict[str, Any]]:
    """Latencies of each form, in turns."""
    sizes, slowest = {}, BLOCK_SECONDS
    for name, call in calls.items():
        least = float(_block(call, x, 3).min())
        sizes[name] = min(MOST_CALLS, max(2, round(BLOCK_SECONDS / least)))
        slowest = max(slowest, least * sizes[name])
    turns = max(LEAST_TURNS, round(seconds / slowest))
    times: dict[str, list[np.ndarray]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            times[name].append(_block(call, x, sizes[name]))
    middles = {name: np.array([np.median(block) for block in blocks]) for name, blocks in times.items()}
    for name, call in calls.items():
        every = np.concatenate(times[name])
        yield {
            "calls": len(every),
            "latency_median": float(np.median(every)),
            "latency_p99": float(np.percentile(every, 99)),
            "throughput": len(x) / float(np.median(every)),
            "speedup_torch": statistics.quantiles(middles[TORCH] / middles[name], n=4),
            "joules": joules(lambda call=call: call(x), energy, ENERGY_SECONDS, len(x)),
        }


def _block(call: Call, x: Tensor, calls: int) -> np.ndarray:
    """Seconds of calls that follow each other, the first one left out."""
    times = np.empty(calls + 1)
    for i in range(calls + 1):
        started = time.perf_counter()
        call(x)
        times[i] = time.perf_counter() - started
    return times[1:]
