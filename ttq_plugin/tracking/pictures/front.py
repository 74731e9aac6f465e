"""The trade-off front as a picture: one panel for each pair of objectives."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_plugin.errors import InputError
from ttq_plugin.fronts import edge
from ttq_plugin.support.files import write_whole
from ttq_plugin.support.names import in_picture
from ttq_plugin.tracking.pictures.labels import place_labels
from ttq_plugin.tracking.pictures.window import Window, far_off, listed, window
from ttq_plugin.tracking.records import TrialRecord, front, natural_vector
from ttq_plugin.tracking.words import drawn, for_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRONT = "#d62728"
REST = "#9aa0a6"
INK = "#3c4043"
MARKS = "os^DvP<X>*"
"""One a method, in the order of `methods_of`."""

EDGE = "best in these two objectives"
THIRD = "; members below it are better in the third"

Points = dict[int, tuple[float, float]]


def plot_front(
    records: Sequence[TrialRecord],
    objectives: Sequence[str],
    path: Path,
    title: str | None = None,
    confirmed: Mapping[int, Mapping[str, Any]] | None = None,
    *,
    score: str = "mcc",
    full_precision: float | None = None,
) -> Path:
    """Draw the complete trials near full precision, the front in red, and write the picture atomically.

    Args:
        records: The trials; only complete ones are drawn.
        objectives: Two or more metric names; the first three are drawn.
        path: The PNG file to write.
        title: A line above the panels.
        confirmed: For front members that were trained again with other seeds, `mean`, `low` and `high` of
            each objective (drawn as error bars) and whether it `holds` (a cross where not).
        score: The task's metric.
        full_precision: The full-precision model's score, drawn as a dashed line; None where it is not known.

    Returns:
        The path that was written.

    Raises:
        InputError: When there are fewer than two objectives.
    """
    if len(objectives) < 2:
        raise InputError(f"a front needs at least two objectives, got {list(objectives)}; name another metric")
    # Without pyplot there is no global state, and no window system is ever asked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = list(combinations(range(min(len(objectives), 3)), 2))
    figure = Figure(figsize=(4.6 * len(pairs) + 0.4, 4.9), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(pairs), squeeze=False)[0]
    members = front(records, objectives)
    vectors = {record.number: natural_vector(record, objectives) for record in records}
    points = {number: in_percent(vector, objectives) for number, vector in vectors.items() if vector is not None}
    drawn_records = [record for record in records if record.number in points]
    far = far_off(records, members, objectives, score, full_precision)
    shown: list[Points] = []
    for axes, (x, y) in zip(panels, pairs, strict=True):
        names = (objectives[x], objectives[y])
        whole = [None if full_precision is None or n != score else drawn(n, full_precision) for n in names]
        flat = {number: (vector[x], vector[y]) for number, vector in points.items()}
        frame = window(flat, members, far, (whole[0], whole[1]))
        shown.append({number: frame.clipped(place) for number, place in flat.items()})
        _draw_panel(axes, flat, frame, members, drawn_records, names, EDGE if len(objectives) == 2 else EDGE + THIRD)
        _draw_full_precision(axes, whole)
        _draw_confirmed(axes, objectives, (x, y), confirmed or {})
        axes.set_xlabel(for_picture(objectives[x]))
        axes.set_ylabel(for_picture(objectives[y]))
    _add_legend(figure, panels, columns=3 if len(pairs) > 1 else 1)
    if title:
        figure.suptitle(in_picture(title), fontsize=12, fontweight="bold")
    figure.draw_without_rendering()
    for axes, flat in zip(panels, shown, strict=True):
        place_labels(axes, flat, members, FRONT)
    return write(figure, Path(path))


def title_of(study: str, task: str | None, complete: int, members: int) -> str:
    """The line above a study's front, with its task where the study's name does not tell it."""
    name = study if task is None or task in study else f"{task}, {study}"
    return f"{name}: {complete} complete trials, {members} on the front"


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


def _draw_panel(
    axes: "Axes",
    points: Points,
    frame: Window,
    members: set[int],
    records: Sequence[TrialRecord],
    pair: tuple[str, str],
    label: str,
) -> None:
    """Draw the points: the colour shows the front, the marker the method, and a dark edge a published setting."""
    quiet_frame(axes)
    draw_edge(axes, [points[number] for number in members], pair, FRONT, label)
    methods = methods_of(records)
    for record in records:
        member, published = record.number in members, record.origin == "paper"
        beyond = record.number in frame.outside
        if beyond and not member:
            continue
        mark = MARKS[methods.index(method_of(record)) % len(MARKS)]
        axes.scatter(
            *frame.clipped(points[record.number]),
            s=50 if member else 24,
            c=FRONT if member else REST,
            marker=mark,
            alpha=0.35 if beyond else 1.0 if member else 0.6,
            zorder=5 if member else 3,
            edgecolors=INK if published else "white",
            linewidths=1.1 if published else 0.7,
            clip_on=not beyond,
        )
    inside = [record for record in records if record.number in members or record.number not in frame.outside]
    _describe_points(axes, inside, members, methods)
    axes.set(**{f"{name}lim": limits for name, limits in zip("xy", frame.limits, strict=True) if limits is not None})
    axes.set_title(listed(points, members, frame.outside), loc="left", fontsize=7.5, color="#5f6368")
    if not points:
        axes.text(0.5, 0.5, "no complete trial yet", transform=axes.transAxes, ha="center", color="#5f6368")


def _describe_points(axes: "Axes", records: Sequence[TrialRecord], members: set[int], methods: Sequence[str]) -> None:
    """Entries of the legend, drawn nowhere."""
    kinds = [("trade-off front", "o", FRONT, "white", any(r.number in members for r in records))]
    kinds += [("dominated trial", "o", REST, "white", any(r.number not in members for r in records))]
    kinds += [("published setting", "o", "white", INK, any(r.origin == "paper" for r in records))]
    kinds += [(name, MARKS[at % len(MARKS)], "#5f6368", "white", len(methods) > 1) for at, name in enumerate(methods)]
    for name, mark, colour, edge_colour, wanted in kinds:
        if wanted:
            label = in_picture(name)
            axes.scatter([], [], s=46, c=colour, marker=mark, edgecolors=edge_colour, linewidths=1.1, label=label)


def _draw_full_precision(axes: "Axes", whole: Sequence[float | None]) -> None:
    for value, draw in zip(whole, (axes.axvline, axes.axhline), strict=True):
        if value is not None:
            draw(value, color=INK, linewidth=1.2, linestyle="--", zorder=1.5, label="full precision")


def methods_of(records: Sequence[TrialRecord]) -> list[str]:
    """The methods in the records, each once, in an order that does not depend on theirs."""
    return sorted({method_of(record) for record in records})


def method_of(record: TrialRecord) -> str:
    """A trial's method; empty where its study has but one and does not repeat it."""
    return str(record.parameters.get("method") or "")


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


def draw_edge(
    axes: "Axes", points: Sequence[tuple[float, ...]], pair: tuple[str, str], colour: str, label: str | None = None
) -> None:
    """The edge of what a front reaches in a panel's two objectives alone."""
    best = edge(points, pair)
    if len(best) > 1:
        xs, ys = zip(*best, strict=True)
        axes.step(xs, ys, where="post", color=colour, alpha=0.35, linewidth=1.4, zorder=2, label=label)


def _add_legend(figure: "Figure", panels: "Sequence[Axes]", columns: int) -> None:
    """What any panel shows, each once."""
    entries = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    if entries:
        look: dict[str, Any] = {"frameon": False, "fontsize": 9}
        figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns, **look)


def write(figure: "Figure", path: Path) -> Path:
    """Render to a temporary file and rename it, so that a reader never sees half of a picture."""
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png", facecolor="white"))
    return path
