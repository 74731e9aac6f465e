"""The pictures of the sensors' report: scores against bytes, confusion matrices, and samples with the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ttq_plugin.reproduce.peers.rounds import FULL
from ttq_plugin.reproduce.sensors.examples import decoded
from ttq_plugin.support.files import write_whole
from ttq_plugin.support.names import in_picture
from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.tracking.pictures.ticks import logarithmic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

MOST_NUMBERS = 12
"""Classes up to which a confusion matrix has its numbers written in."""

BEFORE, AFTER = "#4c72b0", "#d62728"


def _figure(width: float, height: float, simulated: bool) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    if simulated:
        figure.suptitle("SIMULATED data", color="#d62728")
    return figure


def _save(figure: Figure, path: Path) -> Path:
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))
    return path


def draw_bytes(tables: Sequence[tuple[str, Metric, Sequence[Row]]], path: Path, *, simulated: bool) -> Path:
    """Score against bytes, a panel for each task: bars are intervals, the dashed line is full precision.

    Args:
        tables: Name of a task, its metric and its rows.
        path: The PNG file to write.
        simulated: Whether the data are simulated.

    Returns:
        The path.
    """
    columns = min(3, len(tables))
    lines = -(-len(tables) // columns)
    figure = _figure(4.6 * columns + 0.6, 3.8 * lines, simulated)
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    members = list(dict.fromkeys(row["row"] for _, _, rows in tables for row in rows))
    for axes, (task, metric, rows) in zip(panels, tables, strict=False):
        _panel(axes, task, metric, [row for row in rows if row["value"] is not None and row["bytes"]], members)
    known = {n: h for axes in panels for h, n in zip(*axes.get_legend_handles_labels(), strict=True)}
    if known:
        figure.legend(
            known.values(), known, loc="outside lower center", ncols=3 * columns, fontsize=6.5, frameon=False
        )  # a place of its own: in a panel it would cover bars
    for axes in panels[len(tables) :]:
        axes.remove()
    return _save(figure, path)


def _panel(axes: Axes, task: str, metric: Metric, rows: Sequence[Row], members: Sequence[str]) -> None:
    """A task's panel; a member has one colour in all of them."""
    from matplotlib.colors import TABLEAU_COLORS

    scale, colours = 100 if metric.fraction else 1, [*TABLEAU_COLORS.values()]
    for row in rows:
        colour = colours[members.index(row["row"]) % len(colours)]
        value = scale * row["value"]
        # A single group has no interval.
        low, high = (scale * row["score"][end] for end in ("low", "high")) if row["score"] else (value, value)
        if row["row"] == FULL:
            axes.axhline(value, color="gray", ls="--", lw=1)
        bars = [[max(0.0, value - low)], [max(0.0, high - value)]]
        marker = "s" if row["flash"] is not None else "o"
        axes.errorbar(row["bytes"], value, bars, fmt=marker, capsize=2, color=colour, label=in_picture(row["row"]))
    logarithmic(axes)
    unit = " (%)" if metric.fraction else ""
    axes.set(
        title=in_picture(task), xlabel="bytes; squares: integer C code", ylabel=f"test {in_picture(metric.label)}{unit}"
    )
    axes.grid(alpha=0.3)


def draw_confusions(rows: Sequence[Row], classes: Sequence[str], path: Path, *, simulated: bool) -> Path:
    """Confusion matrices side by side, each line in percent of its true class.

    Args:
        rows: The rows, with a name ``row`` and counts ``confusion`` (true, predicted), full precision first.
        classes: Their names; numbers where there are none.
        path: The PNG file to write.
        simulated: Whether the data are simulated.

    Returns:
        The path.
    """
    count = len(rows[0]["confusion"])
    names = [in_picture(name) for name in classes] if len(classes) == count else [str(k) for k in range(count)]
    side = max(3.4, 0.42 * count + 1.2)
    figure = _figure(side * len(rows), side, simulated)
    for axes, row in zip(figure.subplots(1, len(rows), squeeze=False).flat, rows, strict=True):
        counts = np.array(row["confusion"], dtype=float)
        shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        axes.set(title=in_picture(row["row"]), xlabel="answer", ylabel="truth")
        axes.set_xticks(range(count), names, rotation=90 if count > 4 else 0, fontsize=7)
        axes.set_yticks(range(count), names, fontsize=7)
        for (y, x), share in np.ndenumerate(shares if count <= MOST_NUMBERS else np.empty((0, 0))):
            axes.text(x, y, f"{share:.0f}", ha="center", va="center", fontsize=6, color="w" if share > 50 else "k")
    return _save(figure, path)


def draw_examples(
    kept: Mapping[str, Any], answers: Sequence[tuple[str, Mapping[str, Any]]], classes: Sequence[str], path: Path,
    *, simulated: bool,
) -> Path:  # fmt: skip
    """Samples as a person would look at them, each with its true class and the models' answers.

    Args:
        kept: What ``examples.examples`` returned.
        answers: A model's name and what ``members.told`` gave for the same split, full precision first.
        classes: Names of the classes; numbers where there are none.
        path: The PNG file to write.
        simulated: Whether the data are simulated.

    Returns:
        The path.
    """
    lines = -(-len(kept["x"]) // 3)
    figure = _figure(9.6, 2.7 * lines, simulated)
    panels = list(figure.subplots(lines, 3, squeeze=False).flat)
    table = answers[0][1]
    names = [*classes] if len(classes) == table["classes"] else [str(k) for k in range(table["classes"])]
    truth = [int(word) for word in table["truth"].split()]
    said = [(model, [int(word) for word in one["predicted"].split()]) for model, one in answers]
    for axes, place, sample in zip(panels, kept["places"], kept["x"], strict=False):
        _draw_sample(axes, decoded(sample))
        words = "\n".join(f"{in_picture(model)}: {in_picture(names[chosen[place]])}" for model, chosen in said)
        wrong = said[-1][1][place] != truth[place]
        axes.set_title(f"truth: {in_picture(names[truth[place]])}\n{words}", fontsize=7, color=AFTER if wrong else "k")
    for axes in panels[len(kept["x"]) :]:
        axes.remove()
    return _save(figure, path)


def _draw_sample(axes: Axes, sample: np.ndarray) -> None:
    """Curves for (channels, time) and (time,), a picture for (rows, columns), (1, rows, columns) and three colours."""
    axes.tick_params(labelsize=6)
    if sample.ndim == 3 and sample.shape[0] == 1 or sample.ndim == 3 and sample.shape[0] != 3:
        sample = sample[0]
        axes.imshow(sample, aspect="auto", cmap="viridis")
    elif sample.ndim == 3:
        span = max(float(np.ptp(sample)), 1e-12)
        axes.imshow((sample.transpose(1, 2, 0) - sample.min()) / span)
        axes.set_axis_off()
    else:
        axes.plot(np.atleast_2d(sample).T, lw=0.8)
        axes.set_xlabel("sample; a curve for each channel", fontsize=6)
