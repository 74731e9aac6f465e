"""The picture of robustness: a panel for each kind of disturbance, with full precision and the compressed model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_plugin.support.files import write_whole
from ttq_plugin.support.names import in_picture
from ttq_plugin.tasks.metrics import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMS = (("full", "full precision", "#4c72b0"), ("compressed", "compressed", "#d62728"))
"""Key, words and colour of each model."""


def plot_robustness(
    result: Mapping[str, Any], metric: Metric, kinds: Mapping[str, str], path: Path, title: str
) -> Path:
    """Scores with their intervals against the level of each disturbance; dashed lines are the undisturbed scores.

    Args:
        result: What ``ttq_plugin.deploy.bench.robustness.curves`` returned.
        metric: The task's metric.
        kinds: Name of a kind -> what its levels are.
        path: The PNG file to write.
        title: Title of the picture.

    Returns:
        The path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plain, *rows = result["levels"]
    measured = {name: [row for row in rows if row["kind"] == name] for name in kinds}
    shown = {name: own for name, own in measured.items() if own}
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.0 * lines), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(lines, columns, squeeze=False, sharey=True).flat)
    for axes, (name, own) in zip(panels, shown.items(), strict=False):
        _panel(axes, own, plain, metric)
        axes.set_xlabel(kinds[name], fontsize=8)
        if name == "noise":
            axes.invert_xaxis()  # disturbance grows to the right in every panel
    for axes in panels[len(shown) :]:
        axes.remove()
    panels[0].set_ylabel(f"test {in_picture(metric.label)}{' (%)' if metric.fraction else ''}", fontsize=8)
    panels[0].legend(fontsize=7)
    figure.suptitle(in_picture(title), fontsize=10)
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))
    return path


def _panel(axes: Axes, rows: Sequence[Mapping[str, Any]], plain: Mapping[str, Any], metric: Metric) -> None:
    scale = 100 if metric.fraction else 1
    levels = [row["level"] for row in rows]
    for key, words, colour in FORMS:
        values = [scale * row[key]["value"] for row in rows]
        axes.plot(levels, values, "o-", ms=3, lw=1.2, color=colour, label=words)
        axes.axhline(scale * plain[key]["value"], color=colour, ls="--", lw=0.8)
        if all("low" in row[key] for row in rows):
            low, high = ([scale * row[key][end] for row in rows] for end in ("low", "high"))
            axes.fill_between(levels, low, high, color=colour, alpha=0.15, lw=0)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=7)
