"""Several fronts in one figure: a panel for each pair of objectives, a colour and a mark for each study."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from ttq_plugin.support.names import in_picture
from ttq_plugin.tracking.pictures.front import draw_edge, in_percent, quiet_frame, write
from ttq_plugin.tracking.pictures.window import far_scores
from ttq_plugin.tracking.words import for_picture

COLOURS = ("#d62728", "#1f5fa8", "#d98b1f", "#3a8f5c", "#8b5ca8", "#6b7280", "#17a2a8", "#a8501f")
MARKS = "osD^vPX<"


def plot_fronts(
    fronts: Mapping[str, Sequence[tuple[float, ...]]],
    objectives: Sequence[str],
    path: Path,
    title: str | None = None,
    score: str = "mcc",
) -> Path:
    """Draw fronts near their best score and write the picture atomically.

    Args:
        fronts: Study -> its members' objectives, natural values.
        objectives: Two or more metric names; the first three are drawn.
        path: The PNG file to write.
        title: A line above the panels.
        score: The task's metric.

    Returns:
        The path that was written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = list(combinations(range(min(len(objectives), 3)), 2))
    figure = Figure(figsize=(4.6 * len(pairs) + 0.4, 4.7), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(pairs), squeeze=False)[0]
    far = _far(fronts, objectives, score)
    for axes, (x, y) in zip(panels, pairs, strict=True):
        quiet_frame(axes)
        inside = 0
        for index, (name, vectors) in enumerate(fronts.items()):
            colour, mark = COLOURS[index % len(COLOURS)], MARKS[index % len(MARKS)]
            near = [vector for vector in vectors if vector not in far]
            inside += len(near)
            flat = [(vector[x], vector[y]) for vector in (in_percent(vector, objectives) for vector in near)]
            draw_edge(axes, flat, (objectives[x], objectives[y]), colour)
            look = {"s": 40, "alpha": 0.85, "edgecolors": "white", "linewidths": 0.7, "zorder": 3}
            label = "\u200b" + in_picture(name)  # Matplotlib leaves out names that begin with an underscore
            axes.scatter(
                [place[0] for place in flat], [place[1] for place in flat], c=colour, marker=mark, label=label, **look
            )
        away = sum(map(len, fronts.values())) - inside
        words = f"outside: {away} far below the best score" if away else ""
        axes.set_title(words, loc="left", fontsize=7.5, color="#5f6368")
        axes.set_xlabel(for_picture(objectives[x]))
        axes.set_ylabel(for_picture(objectives[y]))
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False, fontsize=9.5)
    if title:
        figure.suptitle(in_picture(title), fontsize=12, fontweight="bold")
    return write(figure, path)


def _far(
    fronts: Mapping[str, Sequence[tuple[float, ...]]], objectives: Sequence[str], score: str
) -> set[tuple[float, ...]]:
    """The members whose score is far below the best one of all fronts."""
    if score not in objectives:
        return set()
    known = next(name for name in objectives if name == score)  # which may know more than its name
    every = dict(enumerate(vector for vectors in fronts.values() for vector in vectors))
    scores = {number: vector[list(objectives).index(score)] for number, vector in every.items()}
    return {every[number] for number in far_scores(scores, set(every), known)}
