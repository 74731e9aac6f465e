"""Writes trial numbers next to the points of a panel, where there is room for them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]

# Offsets tried in turn, in points: right-above first, as one reads a map.
_OFFSETS = ((5, 1), (5, -9), (-5, 1), (0, 5), (0, -14), (-5, -9), (7, -4), (-7, -4))


def place_labels(axes: "Axes", points: dict[int, tuple[float, float]], members: set[int], colour: str) -> None:
    """Write each member's number at the first free place around its point, or leave it out.

    Args:
        axes: A panel whose layout is final: places are compared in pixels.
        points: Number -> data coordinates of everything drawn there.
        members: The numbers to write.
        colour: Colour of the text.
    """
    scale = axes.figure.dpi / 72
    pixels = {number: tuple(axes.transData.transform(point)) for number, point in points.items()}
    frame = axes.get_window_extent()
    taken = [_around(x, y, (4.5 if number in members else 2.5) * scale) for number, (x, y) in pixels.items()]
    for number in sorted(members, key=lambda n: points[n]):
        x, y = pixels[number]
        width, height = (4.6 * len(str(number)) + 1) * scale, 8 * scale
        for dx, dy in _OFFSETS:
            left = x + dx * scale - (width if dx < 0 else width / 2 if dx == 0 else 0)
            box = (left, y + dy * scale, left + width, y + dy * scale + height)
            inside = box[0] >= frame.x0 and box[1] >= frame.y0 and box[2] <= frame.x1 and box[3] <= frame.y1
            if inside and not any(_overlap(box, other) for other in taken):
                _write(axes, number, points[number], (dx, dy), colour)
                taken.append(box)
                break


def _write(axes: "Axes", number: int, point: tuple[float, float], offset: tuple[int, int], colour: str) -> None:
    side = "left" if offset[0] > 0 else "right" if offset[0] < 0 else "center"
    from matplotlib.patheffects import withStroke

    axes.annotate(
        str(number),
        point,
        xytext=offset,
        textcoords="offset points",
        fontsize=7.5,
        color=colour,
        ha=side,
        va="bottom",
        zorder=9,
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )


def _around(x: float, y: float, radius: float) -> Box:
    return x - radius, y - radius, x + radius, y + radius


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
