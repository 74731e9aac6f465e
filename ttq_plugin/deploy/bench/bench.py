"""Measures what a compressed model costs on this machine, in turns with torch and onnxruntime in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttq_plugin.deploy.bench.compared import Call, in_form, largest_difference, score_by
from ttq_plugin.deploy.bench.energy import Counter, counters, joules
from ttq_plugin.deploy.bench.example_file import write_example
from ttq_plugin.deploy.bench.footprint import peak_memory
from ttq_plugin.deploy.file.packed import save_packed
from ttq_plugin.deploy.onnx.dense import OnnxModule, to_onnx
from ttq_plugin.deploy.onnx.int8 import to_int8
from ttq_plugin.deploy.runtime.runtime import TernaryRuntime
from ttq_plugin.deploy.source import Source, task_entries
from ttq_plugin.errors import InputError
from ttq_plugin.support.inputs import batch_size, repeated
from ttq_plugin.support.inputs import call as call_model
from ttq_plugin.support.weights import save_weights
from ttq_plugin.tasks import OWN

RUNTIME, RUNTIME8, INTEGER = "ttq runtime", "ttq runtime int8", "ttq runtime integer"
TORCH, ONNX, INT8 = "torch fp32", "onnxruntime fp32", "onnxruntime int8"
BLOCK_SECONDS = 0.05
"""Seconds for which calls of one way follow each other, as in real use, before the next way takes its turn."""

LEAST_TURNS, MOST_CALLS = 8, 100
ENERGY_SECONDS = 1.0
CALIBRATION, FEW = 256, 64
"""Training samples that int8 is calibrated on; and samples a call where no time counts: the runtime, which times its
layers for each size of batch, calibrates on as many."""


@dataclass(frozen=True)
class Way:
    """One way to run the model.

    Attributes:
        name: The name, as shown to users.
        call: Runs it.
        file: The file that is shipped to run it in this way.
        child: Its name in `footprint`.
    """

    name: str
    call: Call
    file: Path
    child: str


def ways(source: Source, file: Path, folder: Path, threads: int) -> tuple[list[Way], list[str]]:
    """The model in every form that is available here.

    Args:
        source: The model; its data are used to calibrate int8, or random samples if there are none.
        file: The file that it was read from.
        folder: Folder for the files of the other formats.
        threads: Number of threads of each.

    Returns:
        The ways, the runtime and torch first, and notes for the user.
    """
    packed, data = file if source.packed else folder / "packed.safetensors", source.data()
    if not source.packed:
        known, more = task_entries(source.task.name)
        save_packed(source.model, packed, task=known, more=more)
    floats = folder / "float.safetensors"
    save_weights(source.model, floats, {"task": source.task.name})
    samples = data.train.head(CALIBRATION).x if data else source.example(CALIBRATION)
    runtimes = {
        (RUNTIME, "runtime"): TernaryRuntime(source.model, repeated(samples, 1), threads=threads, onnxruntime=False),
        (RUNTIME8, "runtime8"): TernaryRuntime(
            source.model, _first(samples, FEW), threads=threads, int8=True, onnxruntime=False
        ),
    }
    notes = []
    try:
        integers = TernaryRuntime(
            source.model, _first(samples, FEW), threads=threads, integer=True, batches=[_first(samples, FEW)]
        )
        runtimes[INTEGER, "integer"] = integers
    except InputError as error:
        notes.append(f"the integer runtime was not measured: {error}")
    found = [Way(name, made, packed, child) for (name, child), made in runtimes.items()]
    found.append(Way(TORCH, _called(source.model, samples), floats, "torch"))
    notes += [
        f"{name}: torch runs the whole model ({made.fallback})."
        for (name, _), made in runtimes.items()
        if made.fallback
    ]
    try:
        proto = to_onnx(source.model, samples)
        forms = {ONNX: proto, INT8: to_int8(proto, samples)}
    except InputError as error:
        return found, [*notes, f"onnxruntime was not measured: {error}"]
    for name, form in forms.items():
        path = folder / f"{name.replace(' ', '-')}.onnx"
        path.write_bytes(form.SerializeToString())
        found.append(Way(name, _called(OnnxModule(form, threads=threads), samples), path, "onnx"))
    if not data:
        notes.append("int8 was calibrated on random samples: its times are valid, but its outputs are meaningless.")
    return found, notes


def _called(module: Any, inputs: Any) -> Call:
    """A module that is given its inputs as one object; one tensor needs no wrapping, which would take time."""
    return module if isinstance(inputs, Tensor) else partial(call_model, module)


def _first(inputs: Any, most: int) -> Any:
    return repeated(inputs, min(most, batch_size(inputs)))


def bench(
    source: Source,
    file: Path,
    folder: Path,
    *,
    batches: Sequence[int] = (1, 32),
    seconds: float = 4.0,
    threads: int = 1,
) -> dict[str, Any]:
    """Measure the model in every form.

    A call counts when the one before it was of the same form: the first of each block finds the caches filled by
    another and is left out. Ratios are taken within a turn, in which every form has one block.

    Args:
        source: The model, from ``open_model``; its data calibrate int8 and give the scores.
        file: The file that it was read from.
        folder: Folder for the files of the other formats; they stay there.
        batches: Sizes of the batches.
        seconds: Seconds of calls of each form and batch size, about.
        threads: Number of threads of every form.

    Returns:
        Plain data: ``forms``, a list of ``form``, ``file_bytes``, ``peak_memory_bytes`` (above the process that has
        loaded its libraries; None if the system does not report it), ``max_relative_difference`` from torch,
        the task's metric under its name (validation; None without data) and ``batches``, a list of ``batch``,
        ``calls``, ``latency_median``, ``latency_p99`` (seconds a call), ``throughput`` (samples a second),
        ``speedup_torch`` (lower quartile, median, upper quartile of torch's time over its own) and ``joules`` a sample
        (None without a counter); ``metric``, its name; ``notes``; ``layers``, how each form of the runtime runs them.
    """
    data = source.data()
    with _threads(threads), torch.inference_mode():
        found, notes = ways(source, file, folder, threads)
        notes = [*source.notes, *notes]
        energy = counters()
        if not energy:
            notes.append("energy: this machine has no readable energy counter (RAPL).")
        rows = [_row(way, source) for way in found]
        layers = []
        for batch in batches:
            x = repeated(data.validation.head(batch).x, batch) if data else source.example(batch)
            calls = {way.name: way.call for way in found}
            for row, measured in zip(rows, measured_in_turns(calls, x, seconds, energy), strict=True):
                row["batches"].append({"batch": batch, **measured})
            for way in found:
                if isinstance(way.call, TernaryRuntime):
                    layers.append({"batch": batch, "form": way.name, "layers": _layers(way.call, batch)})
        notes += _memory(source, found, rows, folder, max(batches), threads)
    return {"metric": source.task.score.name, "forms": rows, "notes": notes, "layers": layers, "threads": threads}


def _memory(
    source: Source, found: Sequence[Way], rows: Sequence[dict[str, Any]], folder: Path, batch: int, threads: int
) -> list[str]:
    """Measure the memory of each form in a separate process, which imports only a task that the user named.

    Args:
        source: The model.
        found: Its forms.
        rows: The rows of the result, to be filled in.
        folder: Folder for the inputs.
        batch: Samples per call.
        threads: Number of threads of each form.

    Returns:
        A note for each cell that stays empty.
    """
    for row in rows:
        row["peak_memory_bytes"] = None
    name = source.task.name if source.own else None
    inputs = folder / "inputs.safetensors"
    try:
        write_example(source.example(batch), inputs)
    except InputError as error:
        return [f"peak memory was not measured: {error}"]
    for way, row in zip(found, rows, strict=True):
        if way.child == "onnx" or name is None or OWN.fullmatch(name):
            row["peak_memory_bytes"] = peak_memory(way.child, way.file, inputs, threads, name)
    if any(row["peak_memory_bytes"] is None for row in rows):
        return ["peak memory is missing where the separate process that measures it failed."]
    return []


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _row(way: Way, source: Source) -> dict[str, Any]:
    """The part of a row that does not depend on the batch."""
    data, metric = source.data(), source.task.score
    x = data.validation.head(FEW).x if data else source.example(FEW)
    form = call_model(source.model, x)
    called: Call = lambda inputs: in_form(way.call(inputs), form)  # noqa: E731
    return {
        "form": way.name,
        "file_bytes": way.file.stat().st_size,
        "max_relative_difference": largest_difference(called(x), form, relative=True),
        metric.name: score_by(called, data.validation, metric, FEW) if data else None,
        "batches": [],
    }


def _layers(runtime: TernaryRuntime, batch: int) -> list[dict[str, Any]]:
    """How each layer runs: `seconds` for a number of `samples`, and `additions` per sample for a sparse one."""
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


def measured_in_turns(
    calls: Mapping[str, Call], x: Any, seconds: float, energy: Sequence[Counter]
) -> Iterator[dict[str, Any]]:
    """Latencies of each form, in turns.

    Args:
        calls: The forms by name, ``TORCH`` among them.
        x: A batch.
        seconds: Seconds of calls of each form, about.
        energy: Counters that can be read.

    Yields:
        What ``bench`` says of each form and batch, in the order of ``calls``.
    """
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
            "throughput": batch_size(x) / float(np.median(every)),
            "speedup_torch": statistics.quantiles(middles[TORCH] / middles[name], n=4),
            "joules": joules(partial(call, x), energy, ENERGY_SECONDS, batch_size(x)),
        }


def _block(call: Call, x: Any, calls: int) -> np.ndarray:
    """Seconds of calls that follow each other, the first one left out."""
    times = np.empty(calls + 1)
    for i in range(calls + 1):
        started = time.perf_counter()
        call(x)
        times[i] = time.perf_counter() - started
    return times[1:]
