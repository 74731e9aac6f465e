"""Chooses one candidate per layer: a multiple-choice knapsack as a mixed-integer linear program (HiGHS, by SciPy).

HiGHS decides within absolute tolerances of about 1e-6, and sensitivities span many orders of magnitude. So candidates
that cost more than a known solution are left out, and the others are scaled by the remaining range, repeatedly until
nothing changes; the solution of HiGHS is checked with exact sums, and cut off if it is not feasible after all.
"""

import ctypes
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

Picks = tuple[int, ...]
"""Which candidate each layer takes, by its place in the layer's list."""

Numbers = Sequence[Sequence[float]]
"""A number for each candidate of each layer."""

Place = tuple[int, int]
"""A layer and one of its candidates."""

TIE = 1e-9
"""Relative difference below which two totals count as equal; sensitivities are known to a per cent at best."""

ROUNDING = 4e-12
"""Relative difference below which a sum of floats meets its limit."""

RESOLUTION = 1e6
"""The largest number that HiGHS sees, so that its absolute tolerances are 1e-12 of it."""

LEAST = 1e-300
"""Smaller numbers have no reciprocal."""

SECONDS = 60.0
"""Longest time for one program; the proved gap shows what remained open."""

CUTS = 100
"""Largest number of solutions of one program that are cut off because they are not exactly feasible."""

_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Choice:
    """A solution.

    Attributes:
        picks: One candidate for each layer.
        gap: (total cost - proved lower bound) / total cost; 0 where the optimum is proved.
    """

    picks: Picks
    gap: float


def total(numbers: Numbers, picks: Picks) -> float:
    """The sum over the picked candidates, rounded once, so that it does not depend on the order of the layers."""
    return math.fsum(row[pick] for row, pick in zip(numbers, picks, strict=True))


def smallest(numbers: Numbers) -> Picks:
    """The candidate with the smallest number, for each layer."""
    return tuple(min(range(len(row)), key=row.__getitem__) for row in numbers)


def choose(costs: Numbers, sizes: Numbers, limit: float, ties: Numbers, fits: Callable[[Picks], bool]) -> Choice:
    """Minimise the sum of `costs` with the sum of `sizes` at most `limit`; among equals, the sum of `ties`.

    Args:
        costs: The costs, at least 0.
        sizes: Any sign.
        limit: The limit of the sizes' sum.
        ties: What decides between solutions whose costs agree within `TIE`.
        fits: Whether picks meet the limit, exactly; those of the smallest sizes must.

    Returns:
        The choice, proved optimal unless `gap` says otherwise.
    """
    best, bound = _minimise(costs, [(sizes, limit)], fits, smallest(sizes))
    most = total(costs, best) * (1 + TIE)

    def equal(picks: Picks) -> bool:
        return fits(picks) and total(costs, picks) <= most

    best, _ = _minimise(ties, [(sizes, limit), (costs, most)], equal, best)
    spent = total(costs, best)
    gap = (spent - bound) / spent if spent > 0 else 0.0
    return Choice(best, gap if gap > 2 * TIE else 0.0)


def _minimise(
    costs: Numbers, limits: Sequence[tuple[Numbers, float]], fits: Callable[[Picks], bool], known: Picks
) -> tuple[Picks, float]:
    """Picks of least cost and the proved lower bound; `known` fits."""
    floor = total(costs, smallest(costs))
    above = [[cost - min(row) for cost in row] for row in costs]
    best = known
    while (at_stake := total(above, best)) > 0:
        places = [(k, i) for k, row in enumerate(above) for i, cost in enumerate(row) if cost <= at_stake * (1 + TIE)]
        largest = max(above[k][i] for k, i in places)
        scale = RESOLUTION / max(largest, LEAST)
        objective = np.array([above[k][i] * scale for k, i in places])
        found, bound = _highs(objective, [_row(numbers, limit, places) for numbers, limit in limits], places, fits)
        if found is not None and total(above, found) < at_stake:
            best = found
        # If most of the range that HiGHS saw no longer matters, solve again on a smaller scale.
        if found is None or total(above, best) > largest / 10:
            return best, floor + bound / scale
    return best, floor


def _highs(
    objective: NDArray[np.float64],
    rows: list[LinearConstraint],
    places: list[Place],
    fits: Callable[[Picks], bool],
) -> tuple[Picks | None, float]:
    """HiGHS's optimum among those that fit, None if it found none, and its lower bound."""
    layers = [k for k, _ in places]
    one_each = csr_array((np.ones(len(places)), (layers, range(len(places)))))
    constraints = [LinearConstraint(one_each, 1, 1), *rows]
    for _ in range(CUTS):
        with _silence():
            result = milp(
                objective,
                integrality=np.ones(len(places)),
                bounds=Bounds(0, 1),
                constraints=constraints,
                options={"mip_rel_gap": 0.0, "time_limit": SECONDS},
            )
        if result.x is None:
            break
        chosen = np.flatnonzero(result.x > 0.5)
        picks = tuple(places[column][1] for column in chosen)
        if fits(picks):
            return picks, max(float(result.mip_dual_bound), 0.0)
        this = np.zeros(len(places))
        this[chosen] = 1
        constraints.append(LinearConstraint(this, -np.inf, len(picks) - 1))
    return None, 0.0


@contextmanager
def _silence() -> Iterator[None]:
    """No standard output from C: HiGHS 1.12 prints a line about its inner solver even in silent mode."""
    with _ONE_AT_A_TIME:
        flush = ctypes.CDLL(None).fflush
        flush(None)
        try:
            kept = os.dup(1)
        except OSError:  # this process has no standard output
            yield
            return
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 1)
            yield
        finally:
            flush(None)
            os.dup2(kept, 1)
            os.close(kept)


def _row(numbers: Numbers, limit: float, places: list[Place]) -> LinearConstraint:
    """The sum of `numbers` at most `limit`, less what every solution needs, scaled so that `RESOLUTION` is left."""
    least = [min(row) for row in numbers]
    left = limit - math.fsum(least) + ROUNDING * max(abs(limit), math.fsum(map(abs, least)))
    above = np.array([numbers[k][i] - least[k] for k, i in places])
    positive = above[above > 0]
    if left <= 0 and positive.size:
        left = TIE * float(positive.min())  # nothing is left, and a limit of 0 has no scale
    scale = RESOLUTION / max(left, LEAST)
    # A candidate that alone exceeds what is left is impossible, however large it is.
    with np.errstate(over="ignore"):
        return LinearConstraint(np.minimum(above * scale, 2 * RESOLUTION), -np.inf, RESOLUTION)
