"""The picture of a measurement: what each form takes, in time and in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_plugin.support.files import write_whole
from ttq_plugin.support.names import in_picture
from ttq_plugin.tracking.pictures.ticks import logarithmic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    **{"ttq runtime": "#d62728", "ttq runtime int8": "#f2a07b", "ttq runtime integer": "#8c1c13"},
    **{"torch fp32": "#4c72b0", "onnxruntime fp32": "#55a868", "onnxruntime int8": "#8c8c8c"},
}
"""Colours by the names of the forms."""


def plot_bench(result: Mapping[str, Any], path: Path, title: str) -> Path:
    """Latencies, and bars of throughput, file and peak memory.

    Args:
        result: What ``ttq_plugin.deploy.bench.bench.bench`` returned.
        path: The PNG file to write.
        title: Title of the picture.

    Returns:
        The path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharey=True).flat
    forms = result["forms"]
    first, last = (
        [next(m for m in row["batches"] if m["batch"] == size) for row in forms]
        for size in (func(m["batch"] for m in forms[0]["batches"]) for func in (min, max))
    )
    _latencies(axes[0], first, [COLOURS[row["form"]] for row in forms])
    _bars(axes[1], forms, [m["throughput"] for m in last], f"samples a second, batch {last[0]['batch']}")
    _bars(axes[2], forms, [row["file_bytes"] / 1024 for row in forms], "file, KiB")
    memory = [(row["peak_memory_bytes"] or 0) / 2**20 for row in forms]
    _bars(axes[3], forms, memory, f"peak memory beyond the libraries, MiB, batch {last[0]['batch']}")
    figure.suptitle(in_picture(title), fontsize=10)
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))
    return path


def _latencies(axes: Axes, measured: list[Mapping[str, Any]], colours: list[str]) -> None:
    """A dot at the median, a line to the 99th percentile."""
    for place, m in enumerate(measured):
        median, slow = 1e3 * m["latency_median"], 1e3 * m["latency_p99"]
        axes.plot([median, slow], [place] * 2, color=colours[place], lw=1.5)
        axes.plot(median, place, "o", color=colours[place])
        axes.plot(slow, place, "|", color=colours[place], ms=9)
        words = f"{median:.3g}; {slow:.3g}"
        axes.annotate(words, (median, place), (0, 6), textcoords="offset points", fontsize=8)
    logarithmic(axes)
    axes.margins(x=0.18)
    axes.set_xlabel(f"ms a call, batch {measured[0]['batch']}: dot, median; line, to the 99th percentile", fontsize=8)
    axes.tick_params(which="both", labelsize=8)
    axes.grid(axis="x", alpha=0.3)


def _bars(axes: Axes, forms: list[Mapping[str, Any]], values: list[float], label: str) -> None:
    bars = axes.barh(range(len(forms)), values, color=[COLOURS[row["form"]] for row in forms], height=0.6)
    axes.bar_label(bars, [f" {value:.3g}" if value < 100 else f" {value:.0f}" for value in values], fontsize=8)
    axes.set_yticks(range(len(forms)), [row["form"] for row in forms])
    axes.margins(x=0.18)
    axes.set_ylim(len(forms) - 0.5, -0.8)  # the first form on top, with room for what is written over it
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", alpha=0.3)
