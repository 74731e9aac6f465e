"""Successive halving for several objectives: whether a trial is in the better part of those that reached a rung.

Asynchronous, as ASHA is (Li et al. 2020): trials do not wait for a rung to fill up; a trial is compared with those that
reached it before. They are ordered by non-dominated sorting (Deb et al. 2002), and within one front by the hypervolume
that each alone adds to it, so that crowded ones go first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LATEST = 200
"""Trials that a rung remembers: a decision costs the same after ten thousand trials."""


@dataclass(frozen=True)
class Reached:
    """A trial as it was at a rung.

    Attributes:
        broken: By how much it violated constraints; 0 if it violated none.
        values: Its objectives then, all of them better when higher.
    """

    broken: float
    values: tuple[float, ...]


def room(trials: int, eta: int) -> int:
    """The size of the better part of a number of trials: one in eta, rounded up, so that the first one continues."""
    return math.ceil(trials / eta)


def place(own: Reached, others: Sequence[Reached]) -> int:
    """How many of the others are better than a trial; a tie is no reason to stop.

    Args:
        own: The trial.
        others: The trials that reached the same rung.

    Returns:
        The number, from 0.
    """
    import moocore

    ahead = sum(other.broken < own.broken for other in others)
    values = [own.values, *(other.values for other in others if other.broken == own.broken)]
    ranks = moocore.pareto_rank(values, maximise=True)
    ahead += int((ranks < ranks[0]).sum())
    front = [value for value, rank in zip(values, ranks, strict=True) if rank == ranks[0]]
    adds = moocore.hv_contributions(front, ref=[0.0] * len(own.values), maximise=True)
    return ahead + int((adds > adds[0]).sum())
