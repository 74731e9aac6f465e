"""The report's interactive pictures, as plain data for plotly.js."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ttq_plugin.fronts import edge
from ttq_plugin.support.names import in_html
from ttq_plugin.tracking.pictures.front import FRONT, INK
from ttq_plugin.tracking.pictures.window import listed, window
from ttq_plugin.tracking.words import for_page, without_symbol

REST = "#b0b5bb"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon", "hexagon", "triangle-down")
SOLID = ("circle", "square", "diamond", "cross", "x")
"""One a method, and those of them that there are in three dimensions."""
COLOURS = ("#1f5fa8", "#d98b1f", "#3a8f5c", "#8b5ca8", "#6b7280")

Figure = dict[str, Any]
Shares = Mapping[str, Mapping[str, tuple[float, float]]]


@dataclass(frozen=True)
class Point:
    """A complete trial as it is drawn.

    Attributes:
        number: The trial's number.
        place: Its objectives, as they are drawn.
        hover: Its description in HTML.
        member: Whether it is on the front.
        published: Whether it is one of the papers' settings.
        method: What it was compressed by.
    """

    number: int
    place: tuple[float, ...]
    hover: str
    member: bool
    published: bool
    method: str = ""


def projections(
    points: Sequence[Point],
    objectives: Sequence[str],
    known: Mapping[str, float] | None = None,
    far: Set[int] = frozenset(),
) -> list[Figure]:
    """Draw one scatter for each pair of objectives.

    Args:
        points: The complete trials.
        objectives: Metric names.
        known: What the full-precision model has, as it is drawn, by objective; a dashed line shows it.
        far: Numbers of the trials that are far below it.

    Returns:
        A picture for each pair.
    """
    pairs = list(combinations(range(len(objectives)), 2))
    return [_projection(points, objectives, pair, known or {}, set(far)) for pair in pairs]


def _line(axis: str, value: float, ends: list[float]) -> Figure:
    """The full-precision model's value on one axis, as far as the points reach on the other."""
    places = {axis: [value, value], "y" if axis == "x" else "x": ends}
    look = {"color": "#3c4043", "width": 1.2, "dash": "dash"}
    words = {"name": "full precision", "text": [f"full precision: {value:.2f}"] * 2, "hoverinfo": "text"}
    return {"type": "scatter", "mode": "lines", "line": look, **words, **places}


def _groups(points: Sequence[Point]) -> list[tuple[str, list[Point], Figure]]:
    """The points by what they are and by method; dominated ones first, so that the front lies above them."""
    methods = sorted({point.method for point in points})
    looks = (
        ("dominated", False, {"color": REST, "size": 7, "opacity": 0.7}),
        ("trade-off front", True, {"color": FRONT, "size": 10}),
    )
    found = []
    for name, member, look in looks:
        for index, method in enumerate(methods):
            own = [point for point in points if (point.member, point.method) == (member, method)]
            own.sort(key=lambda point: point.published)  # the legend takes its look from the first
            if own:
                rings = {
                    "color": [INK if point.published else "white" for point in own],
                    "width": [1.6 if point.published else 1 for point in own],
                }
                words = f"{name}, {in_html(method)}" if len(methods) > 1 else name
                found.append((words, own, {**look, "symbol": SYMBOLS[index % len(SYMBOLS)], "line": rings}))
    return found


def _projection(
    points: Sequence[Point],
    objectives: Sequence[str],
    pair: tuple[int, int],
    known: Mapping[str, float],
    far: set[int],
) -> Figure:
    x, y = pair
    names = (objectives[x], objectives[y])
    flat = {point.number: (point.place[x], point.place[y]) for point in points}
    members = {point.number for point in points if point.member}
    frame = window(flat, members, far, (known.get(names[0]), known.get(names[1])))
    best = edge([flat[number] for number in members], names)
    data: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [place[0] for place in best],
            "y": [place[1] for place in best],
            "line": {"color": FRONT, "width": 1.5, "shape": "hv"},
            "opacity": 0.35,
            "hoverinfo": "skip",
            "name": "best in these two",
        }
    ]
    for name, own, marker in _groups(points):
        places = {"x": [flat[point.number][0] for point in own], "y": [flat[point.number][1] for point in own]}
        data.append({"type": "scatter", "mode": "markers", "marker": marker, **_described(name, own), **places})
    for at, axis in enumerate("xy"):
        if names[at] in known:
            other = [place[1 - at] for place in flat.values()]
            ends = frame.limits[1 - at] or (min(other), max(other))
            data.append(_line(axis, known[names[at]], list(ends)))
    axes = {}
    for name, axis, limits in zip(names, ("xaxis", "yaxis"), frame.limits, strict=True):
        axes[axis] = _axis(for_page(name), **({} if limits is None else {"range": list(limits)}))
    words = _outside(listed(flat, members, frame.outside))
    return {"data": data, "layout": _layout(**axes, annotations=words, margin={"l": 60, "r": 12, "t": 12, "b": 72})}


def _outside(words: str) -> list[Figure]:
    """Who lies beyond the panel, below its axis: within it the words would cover points."""
    place = {"xref": "paper", "yref": "paper", "x": 0, "y": 0, "xanchor": "left", "yanchor": "top", "yshift": -54}
    font = {"size": 10, "color": "#5f6368"}
    return [{"text": words, "showarrow": False, "font": font, **place}] if words else []


def space(points: Sequence[Point], objectives: Sequence[str]) -> Figure:
    """The first three objectives in three dimensions."""
    data = []
    for name, own, look in _groups(points):
        xs, ys, zs = zip(*(point.place[:3] for point in own), strict=True)
        marker = {**look, "size": look["size"] * 0.5, "line": {"color": "white", "width": 1}}
        marker["symbol"] = look["symbol"] if look["symbol"] in SOLID else "circle"
        data.append(
            {"type": "scatter3d", "mode": "markers", "marker": marker, "x": xs, "y": ys, "z": zs}
            | _described(name, own)
        )
    titles = zip(("xaxis", "yaxis", "zaxis"), objectives, strict=False)
    scene: Figure = {
        axis: {"title": {"text": in_html(without_symbol(name)), "font": {"size": 11}}} for axis, name in titles
    }
    scene["camera"] = {"eye": {"x": 1.5, "y": 1.5, "z": 0.9}, "center": {"x": 0, "y": 0, "z": -0.15}}
    made: Figure = {"scene": scene, "margin": {"l": 0, "r": 0, "t": 0, "b": 30}, "height": 620}
    layout = _layout(**made)
    layout["legend"] = {**layout["legend"], "itemsizing": "constant"}  # the marks are too small to tell apart there
    return {"data": data, "layout": layout}


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
        text = [f"{in_html(name)}: {100 * own[name][0]:.0f} &plusmn; {100 * own[name][1]:.0f} %" for name in names]
        bars: Figure = {"type": "bar", "orientation": "h", "y": [*map(in_html, names)]}
        bars["x"] = [100 * own[name][0] for name in names]
        look = {"error_x": errors, "marker": {"color": colour}, "text": text, "textposition": "none"}
        data.append({**bars, **look, "hoverinfo": "text", "name": for_page(objective).removesuffix(" (%)")})
    axes = {
        "xaxis": _axis("share of the explained variation (%)", rangemode="tozero"),
        "yaxis": {"automargin": True, "ticksuffix": " "},
    }
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
