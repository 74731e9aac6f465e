"""Curvature and what follows from it as a picture: traces, each method's sensitivity, and what the choice costs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_plugin.support.files import write_whole
from ttq_plugin.support.names import in_picture
from ttq_plugin.tracking.pictures.front import FRONT, REST
from ttq_plugin.tracking.pictures.labels import place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT = "#3c4043", "#e8eaed"
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22")
FULL_PRECISION = "fp32"

Row = Mapping[str, Any]


def plot_sensitivity(selection: Mapping[str, Any], path: Path, title: str | None = None) -> Path:
    """Draw the traces with their standard errors, the sensitivities, and how they sum up over the weights.

    Args:
        selection: A curvature selection as a dictionary (`Selection.to_dict()`).
        path: The PNG file to write, whole or not at all.
        title: A line above the panels.

    Returns:
        The path that was written.
    """
    # Without pyplot there is no global state, and no window system is ever asked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    traces: list[Row] = list(selection["traces"])
    rows = {row["layer"]: row for row in selection["table"]}
    height = min(max(4.4, 1.9 + 0.24 * len(traces)), 40.0)
    figure = Figure(figsize=(15, height), dpi=150 if height < 20 else 100, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.05))
    _draw_traces(left, traces, selection["methods"])
    _draw_options(middle, [rows.get(trace["name"]) for trace in traces])
    points = _draw_sum(right, list(rows.values()), selection)
    entries = {
        name: handle for axes in (left, middle) for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        entries.values(), entries, loc="outside lower center", ncols=len(entries), frameon=False, fontsize=9.5
    )
    if title:
        figure.suptitle(in_picture(title), fontsize=12, fontweight="bold")
    figure.draw_without_rendering()
    place_labels(right, points, set(points), INK)
    write_whole(Path(path), lambda name: figure.savefig(name, format="png", facecolor="white"))
    return Path(path)


def _style(axes: "Axes", label: str) -> None:
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#80868b")
    axes.tick_params(colors=INK, labelsize=9)
    axes.set_xlabel(label)


def _scale(axes: "Axes", axis: str, values: Sequence[float], errors: Sequence[float] = ()) -> None:
    """A logarithmic axis where the values span a decade; where some are negative, linear below the usual error."""
    from matplotlib.ticker import SymmetricalLogLocator

    sizes = sorted(abs(value) for value in values if value)
    limit = axes.set_xlim if axis == "x" else axes.set_ylim
    if not sizes or (min(values) >= 0 and sizes[-1] < 10 * sizes[0]):
        limit(0)
        return
    set_scale = axes.set_xscale if axis == "x" else axes.set_yscale
    if min(values) >= 0:
        set_scale("log", nonpositive="clip")
        limit(10 ** (math.log10(sizes[0]) - 0.5), 10 ** (math.log10(sizes[-1]) + 0.5))
        return
    usual = sorted(errors)[len(errors) // 2] if errors else 0.0
    smallest = min(max(sizes[0], usual), sizes[-1])
    set_scale("symlog", linthresh=10 ** math.ceil(math.log10(smallest)))
    locator = (axes.xaxis if axis == "x" else axes.yaxis).get_major_locator()
    assert isinstance(locator, SymmetricalLogLocator)
    locator.set_params(numticks=5)
    (axes.axvline if axis == "x" else axes.axhline)(0, color=INK, linewidth=0.8)


def _draw_traces(axes: "Axes", traces: Sequence[Row], methods: Mapping[str, str]) -> None:
    """One line a layer, in the model's order from the top."""
    _style(axes, r"Hessian trace $\mathrm{Tr}(H)$, with its standard error")
    places = range(len(traces))
    for name, colour, marker, full in (("quantised", FRONT, "o", False), ("full precision", REST, "s", True)):
        shown = [
            (place, trace)
            for place, trace in zip(places, traces, strict=True)
            if (methods[trace["name"]] == FULL_PRECISION) is full
        ]
        if shown:
            axes.errorbar(
                [trace["trace"] for _, trace in shown],
                [place for place, _ in shown],
                xerr=[trace["standard_error"] for _, trace in shown],
                fmt=marker,
                color=colour,
                markersize=6,
                capsize=3,
                label=name,
            )
    _scale(axes, "x", [trace["trace"] for trace in traces], [trace["standard_error"] for trace in traces])
    axes.set_yticks(places, [f"{_label(trace['name'])}  {place + 1}" for place, trace in enumerate(traces)])
    axes.set_ylim(len(traces) - 0.4, -0.6)


def _label(name: str, longest: int = 28) -> str:
    return in_picture(name if len(name) <= longest else "..." + name[3 - longest :])


def _draw_options(axes: "Axes", rows: Sequence[Row | None]) -> None:
    """Each method's Omega for each layer, on the lines of the first panel; the chosen ones ringed."""
    _style(axes, r"sensitivity $\Omega = \mathrm{Tr}(H)/n \cdot ||w - Q(w)||^2$")
    points = [
        (place, option, option["method"] == row["method"])
        for place, row in enumerate(rows)
        if row is not None
        for option in row["options"]
        if option["method"] != FULL_PRECISION
    ]
    names = list(dict.fromkeys(option["method"] for _, option, _ in points))
    for index, name in enumerate(names):
        shift = 0.5 * (index / (len(names) - 1) - 0.5) if len(names) > 1 else 0.0
        own = [(place + shift, option) for place, option, _ in points if option["method"] == name]
        axes.errorbar(
            [option["sensitivity"] for _, option in own],
            [place for place, _ in own],
            xerr=[option["standard_error"] for _, option in own],
            fmt="o",
            color=COLOURS[index % len(COLOURS)],
            markersize=4.5,
            capsize=2,
            label=name,
        )
        ringed = [(o["sensitivity"], place + shift) for place, o, chosen in points if chosen and o["method"] == name]
        if ringed:
            x, y = zip(*ringed, strict=True)
            axes.scatter(x, y, s=90, facecolors="none", edgecolors=FRONT, linewidths=1.4, zorder=5)
    if any(chosen for *_, chosen in points):
        axes.scatter([], [], s=90, facecolors="none", edgecolors=FRONT, linewidths=1.4, label="chosen")
    for place, row in enumerate(rows):
        if row is None:
            across = axes.get_yaxis_transform()
            axes.text(0.02, place, "no candidate", transform=across, va="center", fontsize=8, color="#80868b")
    omegas, errors = ([option[key] for _, option, _ in points] for key in ("sensitivity", "standard_error"))
    _scale(axes, "x", omegas, errors)
    axes.set_yticks(range(len(rows)), [])
    axes.set_ylim(len(rows) - 0.4, -0.6)


def _draw_sum(axes: "Axes", rows: Sequence[Row], selection: Row) -> dict[int, tuple[float, float]]:
    """Omega summed up over the layers, the chosen ones first, then the others; the points by number of layer."""
    number = {trace["name"]: place + 1 for place, trace in enumerate(selection["traces"])}
    _style(axes, "share of the weights that is quantised (%)")
    axes.set_ylabel(r"sum of the sensitivities $\Omega$ (numbers: layers)")
    whole = sum(row["weights"] for row in rows)
    steps = [(row, _counted(row)) for row in rows]
    steps.sort(key=lambda step: (step[0]["method"] == FULL_PRECISION, step[1]["sensitivity"] / step[0]["weights"]))
    xs, ys = [0.0], [0.0]
    for row, option in steps:
        xs.append(xs[-1] + 100 * row["weights"] / whole)
        ys.append(ys[-1] + max(option["sensitivity"], 0.0))
    colours = [REST if row["method"] == FULL_PRECISION else FRONT for row, _ in steps]
    axes.plot(xs, ys, color=REST, linewidth=1.2, zorder=2)
    axes.scatter(xs[1:], ys[1:], c=colours, s=42, zorder=3, edgecolors="white", linewidths=0.7)
    _scale(axes, "y", ys[1:])
    axes.set_xlim(0, 104)
    cost = rf"$\Omega$ = {selection['sensitivity']:.3g} $\pm$ {selection['sensitivity_error']:.1g}"
    axes.set_title(f"chosen: {100 * selection['share']:.1f} % of the weights, {cost}", fontsize=9.5, color=FRONT)
    places = zip(xs[1:], ys[1:], strict=True)
    return {number[row["layer"]]: place for (row, _), place in zip(steps, places, strict=True)}


def _counted(row: Row) -> Row:
    """The chosen option; of a layer in full precision the least sensitive other one."""
    options = [option for option in row["options"] if option["method"] != FULL_PRECISION]
    chosen = [option for option in options if option["method"] == row["method"]]
    return chosen[0] if chosen else min(options, key=lambda option: option["sensitivity"])
