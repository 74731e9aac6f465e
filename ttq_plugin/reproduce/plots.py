"""The pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ttq_plugin.reproduce.cells import FULL
from ttq_plugin.support.files import write_whole
from ttq_plugin.support.names import in_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import ColorType

Summary = Mapping[str, Any]


def draw(summary: Summary, path: Path) -> str | None:
    """Draw the picture of a table.

    Args:
        summary: What ``summarize`` returned.
        path: The PNG file to write.

    Returns:
        What it shows, for people; None if there is nothing to draw.
    """
    make = {"grid": _grid, "sparsity": _curves}.get(summary["table"], _scatter)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    words = make(figure, summary)
    if words is not None:
        simulated = bool(summary.get("simulated"))
        title = f"{in_picture(summary['task'])}{' (SIMULATED data)' if simulated else ''}"
        figure.suptitle(title, fontsize=10, color="#d62728" if simulated else "k")
        write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))
    return words


def _scatter(figure: Figure, summary: Summary) -> str | None:
    """Test MCC against zeros: ours with standard deviations, published ones as hollow marks."""
    axes = figure.subplots()
    colours, marks = _colours(), cycle("osD^vP<>X*")
    published = False
    for row in summary["rows"]:
        columns = row["columns"]
        if "mcc" not in columns:
            continue
        colour = next(colours)
        if row["row"] == FULL:
            _full(axes, columns["mcc"], colour)
            continue
        x, mark = columns.get("srqw") or {"mean": 0.0, "std": 0.0}, next(marks)
        axes.errorbar(
            [x["mean"]],
            [columns["mcc"]["mean"]],
            xerr=x["std"] or 0,
            yerr=columns["mcc"]["std"] or 0,
            fmt=mark,
            capsize=2,
            color=colour,
            label=in_picture(row["row"]),
        )
        if "published" in columns["mcc"]:
            px = x.get("published", [0.0])[0]
            axes.plot(px, columns["mcc"]["published"][0], mark, mfc="none", mec=colour, ms=9)
            published = True
    if published:
        axes.plot([], [], "o", mfc="none", mec="0.3", ms=9, label="hollow: published")
    axes.set(xlabel="zeros among quantised weights, SRQW (%); binary methods at 0", ylabel="test MCC (%)")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside right upper", frameon=False)
    return "Test MCC against zeros: filled ours (bars: standard deviations), hollow published; line: full precision."


def _full(axes: Axes, mcc: Mapping[str, Any], colour: ColorType) -> None:
    axes.axhline(mcc["mean"], color=colour, label="full precision")
    if mcc["std"]:
        axes.axhspan(mcc["mean"] - mcc["std"], mcc["mean"] + mcc["std"], color=colour, alpha=0.12)
    if "published" in mcc:
        axes.axhline(mcc["published"][0], color=colour, ls=":", label="full precision, published")


def _curves(figure: Figure, summary: Summary) -> str | None:
    """Zeros after each epoch, mean and range over the repetitions."""
    axes = figure.subplots()
    colours = _colours()
    for row in summary["rows"]:
        curves = np.asarray([curve for curve in row["curves"] if curve])
        if not curves.size:
            continue
        colour, epochs = next(colours), np.arange(1, curves.shape[1] + 1)
        axes.plot(epochs, 100 * curves.mean(0), color=colour, label=in_picture(row["row"]))
        axes.fill_between(epochs, 100 * curves.min(0), 100 * curves.max(0), color=colour, alpha=0.15)
    axes.set(xlabel="epoch", ylabel="zeros among quantised weights, SRQW (%)", xscale="log")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside right upper", frameon=False)
    return "Zeros over training: mean and range of the repetitions."


def _grid(figure: Figure, summary: Summary) -> str | None:
    """Heat maps of MCC and SRQW over t_min and t_max."""
    found = {}
    for row in summary["rows"]:
        if row["row"] != FULL and row["columns"]:
            settings = row["settings"]
            found[settings["t_min"], settings["t_max"]] = row["columns"]
    if not found:
        return None
    lows, highs = (sorted({pair[i] for pair in found}) for i in (0, 1))
    figure.set_size_inches(10, 4.6)
    for axes, (column, words) in zip(
        figure.subplots(1, 2), {"mcc": "test MCC (%)", "srqw": "SRQW (%)"}.items(), strict=True
    ):
        values = np.full((len(lows), len(highs)), np.nan)
        for (low, high), columns in found.items():
            if column in columns:
                values[lows.index(low), highs.index(high)] = columns[column]["mean"]
        picture = axes.imshow(values, origin="lower", cmap="viridis", aspect="auto")
        figure.colorbar(picture, ax=axes, label=words)
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color="white")
        axes.set(xlabel="t_max", ylabel="t_min", title=words)
        axes.set_xticks(range(len(highs)), [f"{v:g}" for v in highs])
        axes.set_yticks(range(len(lows)), [f"{v:g}" for v in lows])
    return "Test MCC and zeros over aTTQ's thresholds (t_min above t_max is not allowed)."


def _colours() -> Iterator[ColorType]:
    from matplotlib.colors import TABLEAU_COLORS

    return cycle(TABLEAU_COLORS.values())
