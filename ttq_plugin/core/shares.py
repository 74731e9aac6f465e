"""How a prescribed share of zeros is divided among layers when a training begins.

With the same share everywhere, a small layer is left with a handful of weights where a large one still has thousands,
and the network can be no better than its narrowest layer. So the density (the share that is not zero) of a layer of n
weights is proportional to ``1 / sqrt(n)``, as in sparse networks whose small layers are kept denser (Mocanu et al.,
Nature Communications, 2018, and Evci et al., RigL, 2020, scale densities by the layers' widths).
"""

from __future__ import annotations

from collections.abc import Sequence


def divided(sizes: Sequence[int], share: float) -> list[float]:
    """The share of zeros of each layer.

    Args:
        sizes: Numbers of weights of the layers, each at least 1.
        share: The share of zeros over all of them, in (0, 1].

    Returns:
        A share for each layer, at least half of ``share``; weighted by the sizes, their mean is ``share``.

    Example:
        >>> [round(zeros, 3) for zeros in divided([100, 10_000], 0.9)]
        [0.45, 0.905]
    """
    most = 1 - share / 2
    kept = (1 - share) * sum(sizes)
    densest: set[int] = set()
    while True:
        rest = [place for place in range(len(sizes)) if place not in densest]
        unit = (kept - most * sum(sizes[place] for place in densest)) / sum(sizes[place] ** 0.5 for place in rest)
        above = {place for place in rest if unit > most * sizes[place] ** 0.5}
        if not above:
            break
        densest |= above
    return [1 - (most if place in densest else unit / size**0.5) for place, size in enumerate(sizes)]
