"""The trade-off front as a picture: one panel for each pair of objectives."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_plugin.errors import InputError
from ttq_plugin.fronts import edge, is_higher
from ttq_plugin.support.files import write_whole
from ttq_plugin.support.names import in_picture
from ttq_plugin.tracking.pictures.labels import place_labels
from ttq_plugin.tracking.records import TrialRecord, front, natural_vector
from ttq_plugin.tracking.words import drawn, for_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRONT = "#d62728"
REST = "#9aa0a6"

Points = dict[int, tuple[float, ...]]


def plot_front(
    records: Sequence[TrialRecord],
    objectives: Sequence[str],
    path: Path,
    title: str | None = None,
    confirmed: Mapping[int, Mapping[str, Any]] | None = None,
) -> Path:
    """Draw every complete trial, the front in red, and write the picture atomically.

    Args:
        records: the trials; only complete ones are drawn.
        objectives: two or more metric names; the first three are drawn.
        path: the PNG file to write.
        title: a line above the panels.
        confirmed: of front members that were trained again with other seeds, `mean`, `low` and `high` of each objective
            (drawn as error bars) and whether it `holds` (a cross where not).

    Returns:
        The path that was written.

    Raises:
        InputError: when there are fewer than two objectives.
    """
    if len(objectives) < 2:
        raise InputError(f"a front needs at least two objectives, got {list(objectives)}; name another metric")
    # Without pyplot there is no global state, and no window system is ever asked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = list(combinations(range(min(len(objectives), 3)), 2))
    figure = Figure(figsize=(4.6 * len(pairs) + 0.4, 4.7), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(pairs), squeeze=False)[0]
    members = front(records, objectives)
    vectors = {record.number: natural_vector(record, objectives) for record in records}
    points = {number: in_percent(vector, objectives) for number, vector in vectors.items() if vector is not None}
    published = {record.number for record in records if record.origin == "paper"}
    for axes, (x, y) in zip(panels, pairs, strict=True):
        flat: Points = {number: (vector[x], vector[y]) for number, vector in points.items()}
        _draw_panel(axes, flat, members, published, (objectives[x], objectives[y]))
        _draw_confirmed(axes, objectives, (x, y), confirmed or {})
        axes.set_xlabel(for_picture(objectives[x]))
        axes.set_ylabel(for_picture(objectives[y]))
    _add_legend(figure, panels[0], columns=4 if len(pairs) > 1 else 2)
    if title:
        figure.suptitle(in_picture(title), fontsize=12, fontweight="bold")
    figure.draw_without_rendering()
    for axes, (x, y) in zip(panels, pairs, strict=True):
        place_labels(axes, {number: (vector[x], vector[y]) for number, vector in points.items()}, members, FRONT)
    return write(figure, Path(path))


def in_percent(vector: tuple[float, ...], objectives: Sequence[str]) -> tuple[float, ...]:
    """Objectives' natural values as they are drawn."""
    return tuple(drawn(name, value) for value, name in zip(vector, objectives, strict=True))


def quiet_frame(axes: "Axes") -> None:
    """A panel's look: a faint grid, two axes, room around the points."""
    axes.grid(color="#e8eaed", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#80868b")
    axes.tick_params(colors="#3c4043", labelsize=9)
    axes.margins(0.09)


def _draw_panel(axes: "Axes", points: Points, members: set[int], published: set[int], pair: tuple[str, str]) -> None:
    quiet_frame(axes)
    draw_edge(axes, [points[number] for number in members], pair, FRONT)
    rest = points.keys() - members
    groups = (
        ("dominated trial", rest - published, "o", 24, REST),
        ("dominated, published setting", rest & published, "D", 30, REST),
        ("trade-off front", members - published, "o", 52, FRONT),
        ("front, published setting", members & published, "D", 50, FRONT),
    )
    for layer, (name, numbers, marker, size, colour) in enumerate(groups):
        if numbers:
            xs, ys = zip(*(points[number] for number in sorted(numbers)), strict=True)
            axes.scatter(
                xs,
                ys,
                s=size,
                c=colour,
                marker=marker,
                label=name,
                alpha=0.6 if layer == 0 else 1.0,
                zorder=3 + layer,
                edgecolors="white",
                linewidths=0.7,
            )
    hidden = _zoom(axes, points, members, pair)
    if hidden:
        axes.text(0.01, 0.01, f"{hidden} more outside", transform=axes.transAxes, fontsize=7.5, color="#5f6368")
    if not points:
        axes.text(0.5, 0.5, "no complete trial yet", transform=axes.transAxes, ha="center", color="#5f6368")


def _draw_confirmed(
    axes: "Axes", objectives: Sequence[str], pair: tuple[int, int], confirmed: Mapping[int, Mapping[str, Any]]
) -> None:
    """The means over other seeds with their intervals, and a cross on members that fall off the front."""
    scales = [drawn(objectives[index], 1.0) for index in pair]
    for holds, colour, marker in ((True, FRONT, "o"), (False, "#202124", "x")):
        chosen = [found for found in confirmed.values() if found["holds"] is holds]
        if not chosen:
            continue
        means, errors = (
            [[scale * found[key][index] for found in chosen] for index, scale in zip(pair, scales, strict=True)]
            for key in ("mean", "high")
        )
        widths = [[h - m for h, m in zip(high, mean, strict=True)] for high, mean in zip(errors, means, strict=True)]
        name = "other seeds: mean, 95 % interval" if holds else "falls off with other seeds"
        x, y = means
        axes.errorbar(
            x, y, xerr=widths[0], yerr=widths[1], fmt=marker, color=colour, markersize=5, markerfacecolor="white",
            elinewidth=1.1, capsize=2.5, zorder=8, label=name,
        )  # fmt: skip


def _zoom(axes: "Axes", points: Points, members: set[int], pair: tuple[str, str]) -> int:
    """Cut an axis where a few far outliers would squeeze the front into less than a third; count who falls out."""
    outside: set[int] = set()
    for axis, name in enumerate("xy"):
        inner = [points[number][axis] for number in members]
        least, most = min(inner, default=0.0), max(inner, default=0.0)
        span, higher = most - least, is_higher(pair[axis])
        far = {
            number
            for number, point in points.items()
            if (point[axis] < least - 2 * span if higher else point[axis] > most + 2 * span)
        }
        if span and far and len(far) <= len(points) / 5:
            near = [points[number][axis] for number in points.keys() - far]
            margin = 0.09 * (max(near) - min(near))
            axes.set(**{f"{name}lim": (min(near) - margin, max(near) + margin)})
            outside |= far
    return len(outside)


def draw_edge(axes: "Axes", points: Sequence[tuple[float, ...]], pair: tuple[str, str], colour: str) -> None:
    """The edge of what a front reaches in a panel's two objectives alone."""
    best = edge(points, pair)
    if len(best) > 1:
        xs, ys = zip(*best, strict=True)
        axes.step(xs, ys, where="post", color=colour, alpha=0.35, linewidth=1.4, zorder=2)


def _add_legend(figure: "Figure", axes: "Axes", columns: int) -> None:
    handles, names = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9.5)


def write(figure: "Figure", path: Path) -> Path:
    """Render beside the target and rename: a reader sees the old picture or the new one, never half of one."""
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png", facecolor="white"))
    return path
