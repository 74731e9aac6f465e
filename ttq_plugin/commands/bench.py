"""``ttq bench``: what a compressed model costs on this machine, compared with torch and onnxruntime."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from ttq_plugin.commands.parts.console import out as console
from ttq_plugin.commands.parts.console import print_json, table, working
from ttq_plugin.commands.parts.lines import see
from ttq_plugin.commands.parts.model import Asked, find_model
from ttq_plugin.commands.parts.robustness import check_options
from ttq_plugin.commands.parts.robustness import robustness as measure_robustness
from ttq_plugin.commands.train import SIMULATED
from ttq_plugin.deploy.bench.bench import bench as measure
from ttq_plugin.errors import InputError
from ttq_plugin.support.files import write_text
from ttq_plugin.support.machine import environment
from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.tracking import open_store
from ttq_plugin.tracking.pictures.bench import plot_bench
from ttq_plugin.tracking.records import Parameter
from ttq_plugin.tracking.runs.bench import record_bench


def bench(
    model: str,
    *,
    task: str | None,
    trial: int | None,
    batches: tuple[int, ...],
    seconds: float,
    threads: int,
    plot: Path | None,
    out: Path | None,
    store: str,
    storage: str | None,
    data: Path | None,
    seed: int | None,
    device: str,
    as_json: bool,
    robustness: bool = False,
    noise_seed: int = 0,
    cache: Path | None = None,
    weights: Path | None = None,
    given: frozenset[str] = frozenset(),
) -> None:
    """Measure, print two tables, write the requested files and log all; ``given`` names the options that were set."""
    _check(device, batches, seconds, threads)
    asked = Asked(model, trial, task, store, storage, data, seed)
    check_options(given, robustness=robustness)
    if robustness:
        measure_robustness(asked, plot, out, cache=cache, weights=weights, noise_seed=noise_seed, as_json=as_json)
        return
    file, name, source = find_model(asked)
    loaded = source.data()
    opened = open_store(store)
    with tempfile.TemporaryDirectory() as folder, working(f"measuring {name}"):
        sizes = sorted(set(batches))
        result = measure(source, file, Path(folder), batches=sizes, seconds=seconds, threads=threads)
    simulated = loaded is not None and loaded.simulated
    title = f"{name}: {source.task.name}{' (SIMULATED data)' if simulated else ''}, {_threads(threads)}"
    about: dict[str, Parameter] = {"file": name, "task": source.task.name}
    machine = environment("cpu")
    result = {**about, "simulated": simulated, "environment": machine, **result}
    _write(result, title, plot, out)
    more: dict[str, Parameter] = {"threads": threads, "simulated": simulated or None, **machine}
    link = record_bench(opened, source.task.name, result, about | more, title)
    if as_json:
        print_json(result | {"link": link})
        return
    _print(result, title, source.task.score)
    written = [f"{words}: {path}" for words, path in (("picture", plot), ("numbers", out)) if path]
    for line in (*written, *see(store, link), *([SIMULATED] if simulated else [])):
        console.print(line)


def _write(result: dict[str, Any], title: str, plot: Path | None, out: Path | None) -> None:
    """Write the picture and the numbers if they were requested."""
    if plot:
        plot_bench(result, plot, title)
    if out:
        write_text(out, json.dumps(result, indent=2) + "\n")


def _check(device: str, batches: tuple[int, ...], seconds: float, threads: int) -> None:
    if device != "cpu":
        raise InputError(f"--device must be cpu, because the runtime and onnxruntime run on the CPU, got {device!r}.")
    if seconds <= 0:
        raise InputError(
            "batch sizes, seconds and threads must be positive, got "
            f"{', '.join(map(str, batches))}; {seconds}; {threads}."
        )


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def _print(result: dict[str, Any], title: str, metric: Metric) -> None:
    headings = {"form": "left"} | dict.fromkeys(
        ("batch", "calls", "median us", "p99 us", "samples/s", "x torch (quartiles)", "mJ a sample"), "right"
    )
    rows = []
    for row in result["forms"]:
        for m in row["batches"]:
            low, middle, high = m["speedup_torch"]
            numbers = [f"{1e6 * m['latency_median']:.1f}", f"{1e6 * m['latency_p99']:.1f}", f"{m['throughput']:.0f}"]
            ratio = f"{middle:.2f} ({low:.2f}-{high:.2f})"
            energy = "" if m["joules"] is None else f"{1e3 * m['joules']:.4g}"
            rows.append([row["form"], str(m["batch"]), str(m["calls"]), *numbers, ratio, energy])
    table(title, headings, rows)
    headings = {"form": "left"} | dict.fromkeys(
        ("file bytes", "peak memory", "outputs differ by", f"{metric.label} (validation)"), "right"
    )
    rows = [
        [
            row["form"],
            str(row["file_bytes"]),
            "" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 2**20:.1f} MiB",
            f"{row['max_relative_difference']:.1e}",
            metric.text(row[metric.name]),
        ]
        for row in result["forms"]
    ]
    table("files, memory in addition to the libraries, outputs compared with torch", headings, rows)
    for entry in result["layers"]:
        kinds = ", ".join(f"{layer['layer']} {layer['runs_as']}" for layer in entry["layers"])
        console.print(f"batch {entry['batch']}, {entry['form']}: {kinds}{_roofline(entry['layers'])}")
    for note in result["notes"]:
        console.print(f"note: {note}")
    console.print(f"machine: {result['environment']['processor'] or 'unnamed'}")


def _roofline(layers: list[dict[str, Any]]) -> str:
    """The number of additions per sample in the sparse layers, and the rate per second that they reach."""
    sparse = [layer for layer in layers if layer["additions"]]
    if not sparse:
        return ""
    needed = sum(layer["additions"] for layer in sparse)
    reached = needed * sparse[0]["samples"] / sum(layer["seconds"] for layer in sparse)
    return f"; {needed / 1e6:.3g} M additions per sample in sparse layers, at {reached / 1e9:.3g} G per second"
