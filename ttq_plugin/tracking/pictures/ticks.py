"""Numbers along an axis, as one writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def logarithmic(axes: Axes, digits: Sequence[int] = (1, 2, 5)) -> None:
    """Make the axis to the right logarithmic, with plain numbers in place of powers of ten.

    Args:
        axes: A panel.
        digits: With which numbers begin that are written.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=digits))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
