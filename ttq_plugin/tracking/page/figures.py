"""The report's interactive pictures, as plain data for plotly.js."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ttq_plugin.fronts import edge
from ttq_plugin.tracking.pictures.front import FRONT
from ttq_plugin.tracking.words import for_page, for_text

REST = "#b0b5bb"
COLOURS = ("#1f5fa8", "#d98b1f", "#3a8f5c", "#8b5ca8", "#6b7280")

Figure = dict[str, Any]
Shares = Mapping[str, Mapping[str, tuple[float, float]]]


@dataclass(frozen=True)
class Point:
    """A complete trial as it is drawn.

    Attributes:
        number: the trial's.
        place: its objectives, as they are drawn.
        hover: what is told of it, in HTML.
        member: whether it is on the front.
        published: whether it is one of the papers' settings.
    """

    number: int
    place: tuple[float, ...]
    hover: str
    member: bool
    published: bool


def projections(
    points: Sequence[Point], objectives: Sequence[str], known: Mapping[str, float] | None = None
) -> list[Figure]:
    """Draw one scatter for each pair of objectives.

    Args:
        points: The complete trials.
        objectives: Metric names.
        known: What the full-precision model has, as it is drawn, by objective; a dashed line shows it.

    Returns:
        A picture for each pair.
    """
    pairs = list(combinations(range(len(objectives)), 2))
    figures = [_projection(points, objectives, x, y) for x, y in pairs]
    for figure, (x, y) in zip(figures, pairs, strict=True):
        for axis, index in (("x", x), ("y", y)):
            if known and objectives[index] in known:
                other = [point.place[y if axis == "x" else x] for point in points]
                figure["data"].append(_line(axis, known[objectives[index]], [min(other), max(other)]))
    return figures


def _line(axis: str, value: float, ends: list[float]) -> Figure:
    """The full-precision model's value on one axis, as far as the points reach on the other."""
    places = {axis: [value, value], "y" if axis == "x" else "x": ends}
    look = {"color": "#3c4043", "width": 1.2, "dash": "dash"}
    words = {"name": "full precision", "text": [f"full precision: {value:.2f}"] * 2, "hoverinfo": "text"}
    return {"type": "scatter", "mode": "lines", "line": look, **words, **places}


def _groups(points: Sequence[Point]) -> list[tuple[str, list[Point], Figure]]:
    """The points by what they are, with each kind's look; dominated ones first, so that the front lies above them."""
    looks = (
        ("dominated trial", False, False, {"color": REST, "size": 6, "symbol": "circle", "opacity": 0.7}),
        ("dominated, published setting", False, True, {"color": REST, "size": 8, "symbol": "diamond"}),
        ("trade-off front", True, False, {"color": FRONT, "size": 9, "symbol": "circle"}),
        ("front, published setting", True, True, {"color": FRONT, "size": 10, "symbol": "diamond"}),
    )
    found = []
    for name, member, published, look in looks:
        own = [point for point in points if (point.member, point.published) == (member, published)]
        if own:
            found.append((name, own, {**look, "line": {"color": "white", "width": 1}}))
    return found


def _projection(points: Sequence[Point], objectives: Sequence[str], x: int, y: int) -> Figure:
    best = edge([(point.place[x], point.place[y]) for point in points if point.member], (objectives[x], objectives[y]))
    line = {"color": FRONT, "width": 1.5, "shape": "hv"}
    data: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [place[0] for place in best],
            "y": [place[1] for place in best],
            "line": line,
            "opacity": 0.35,
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]
    for name, own, marker in _groups(points):
        places = {"x": [point.place[x] for point in own], "y": [point.place[y] for point in own]}
        data.append({"type": "scatter", "mode": "markers", "marker": marker, **_described(name, own), **places})
    axes = {"xaxis": _axis(for_page(objectives[x])), "yaxis": _axis(for_page(objectives[y]))}
    return {"data": data, "layout": _layout(**axes)}


def space(points: Sequence[Point], objectives: Sequence[str]) -> Figure:
    """The first three objectives in three dimensions."""
    data = []
    for name, own, look in _groups(points):
        xs, ys, zs = zip(*(point.place[:3] for point in own), strict=True)
        marker = {**look, "size": look["size"] * 0.6}
        data.append(
            {"type": "scatter3d", "mode": "markers", "marker": marker, "x": xs, "y": ys, "z": zs}
            | _described(name, own)
        )
    titles = zip(("xaxis", "yaxis", "zaxis"), objectives, strict=False)
    scene: Figure = {axis: {"title": {"text": for_text(name), "font": {"size": 11}}} for axis, name in titles}
    scene["camera"] = {"eye": {"x": 1.5, "y": 1.5, "z": 0.9}, "center": {"x": 0, "y": 0, "z": -0.15}}
    return {"data": data, "layout": _layout(scene=scene, margin={"l": 0, "r": 0, "t": 0, "b": 30}, height=620)}


def volume(numbers: Sequence[int], volumes: Sequence[float]) -> Figure:
    """The hypervolume after each trial."""
    line = {"color": FRONT, "width": 2, "shape": "hv"}
    text = [f"after trial {n}: {v:.5f}" for n, v in zip(numbers, volumes, strict=True)]
    data = {"type": "scatter", "mode": "lines", "x": list(numbers), "y": list(volumes), "line": line}
    hover = {"text": text, "hoverinfo": "text", "showlegend": False}
    axes = {"xaxis": _axis("trial"), "yaxis": _axis("hypervolume of the front so far")}
    return {"data": [data | hover], "layout": _layout(**axes)}


def importance(shares: Shares) -> Figure:
    """A bar for each parameter and objective, with its standard error."""
    first = next(iter(shares.values()))
    names = sorted(first, key=lambda name: sum(own[name][0] for own in shares.values()))
    data = []
    for colour, (objective, own) in zip(_cycle(len(shares)), shares.items(), strict=True):
        up = [100 * own[name][1] for name in names]
        down = [100 * min(own[name]) for name in names]  # a share is not negative
        errors = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1, "width": 2}
        text = [f"{name}: {100 * own[name][0]:.0f} &plusmn; {100 * own[name][1]:.0f} %" for name in names]
        bars = {"type": "bar", "orientation": "h", "y": names, "x": [100 * own[name][0] for name in names]}
        look = {"error_x": errors, "marker": {"color": colour}, "text": text, "textposition": "none"}
        data.append({**bars, **look, "hoverinfo": "text", "name": for_page(objective).removesuffix(" (%)")})
    axes = {"xaxis": _axis("share of the explained variation (%)", rangemode="tozero"), "yaxis": {"automargin": True}}
    height = 120 + len(names) * (14 * len(shares) + 12)
    return {"data": data, "layout": _layout(**axes, barmode="group", height=height)}


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _described(name: str, points: Sequence[Point]) -> Figure:
    words = {"text": [point.hover for point in points], "customdata": [point.number for point in points]}
    return {"name": name, "hoverinfo": "text", **words}


def _axis(title: str, **more: Any) -> Figure:
    look = {"gridcolor": "#e8eaed", "zeroline": False, "linecolor": "#80868b", "ticks": "outside", "automargin": True}
    return {"title": {"text": title, "font": {"size": 13}}, **look, **more}


def _layout(**own: Any) -> Figure:
    return {
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#202124"},
        "margin": {"l": 60, "r": 12, "t": 12, "b": 50},
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
        "hoverlabel": {"bgcolor": "white", "font": {"size": 12}, "align": "left"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "height": 400,
        **own,
    }
