"""The entrants: each method with its tuned parameters, whose ranges are the same for similar parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ttq_plugin.errors import InputError
from ttq_plugin.methods import LSQ
from ttq_plugin.trial.defaults import defaults

SHARES = (0.5, 0.75, 0.9, 0.95)
"""Shares of zeros for methods that can prescribe one."""

LR = (3e-4, 1e-2)
"""Learning rates that every entrant's tuning draws from, on a log scale."""

PRUNED = "magnitude-int8"
"""Magnitude pruning by a rising mask (Zhu & Gupta 2017), then eight bits a weight."""

PARQ = "parq"
"""torchao's PARQ (Jin et al. 2025): ternary weights by a proximal map that hardens while it trains."""


@dataclass(frozen=True)
class Entrant:
    """A method at one size.

    Attributes:
        name: Its row in the report.
        method: A key of ``METHODS``, ``lsq-int2``, ``magnitude-int8`` or ``parq``.
        fixed: Numbers that are not tuned.
        ranges: Numbers that are, each with its least and greatest value; drawn on a log scale.
    """

    name: str
    method: str
    fixed: dict[str, Any] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    def draw(self, trial: int, lr: float) -> dict[str, Any]:
        """The settings of one tuning trial.

        Args:
            trial: Its number, from 0; the first takes the recipe's learning rate and the middle of each range.
            lr: The recipe's learning rate.

        Returns:
            ``method`` and its numbers.
        """
        generator = np.random.default_rng([trial, *self.name.encode()])
        drawn = {name: _log_uniform(low, high, generator) for name, (low, high) in self.ranges.items()}
        if trial == 0:
            drawn = {name: math.sqrt(low * high) for name, (low, high) in self.ranges.items()} | {"lr": lr}
        return {"method": self.method, **self.fixed, **drawn}


def _log_uniform(low: float, high: float, generator: np.random.Generator) -> float:
    return float(f"{math.exp(generator.uniform(math.log(low), math.log(high))):.3g}")


def entrants() -> list[Entrant]:
    """All entrants; PARQ only if torchao is installed.

    Returns:
        The entrants, in the order of the report.
    """
    rate = {"lr": LR}
    rising = {"lr_threshold": defaults({"zeros": 0.5})["lr_threshold"]}
    rows = [Entrant(f"pttq {share:.0%} zeros", "pttq", {"zeros": share, **rising}, rate) for share in SHARES]
    rows += [
        Entrant("attq", "attq", {}, {**rate, "t_max": (0.3, 1.5)}),
        Entrant("ttq", "ttq", {}, {**rate, "t": (0.02, 0.4)}),
        Entrant("twn", "twn", {}, rate),
        Entrant("NNI LSQ int2", LSQ, {}, rate),
    ]
    rows += [Entrant(f"pruned {share:.0%} + int8", PRUNED, {"zeros": share}, rate) for share in SHARES[1:]]
    return rows + ([Entrant("PARQ", PARQ, {}, rate)] if has_parq() else [])


def has_parq() -> bool:
    """Whether torchao's PARQ can be imported."""
    try:
        from torchao.prototype.parq.optim import QuantOptimizer  # noqa: F401
    except Exception:  # not installed, or made for another torch
        return False
    return True


def chosen(rows: list[Entrant], names: tuple[str, ...]) -> list[Entrant]:
    """The entrants of these names or methods.

    Args:
        rows: All rows.
        names: The names of rows or of methods; empty for all.

    Returns:
        Those chosen, in the order of ``rows``.

    Raises:
        InputError: If a name is unknown.
    """
    known = {row.name for row in rows} | {row.method for row in rows}
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"peers must be some of {', '.join(sorted(known))}, got {unknown[0]!r}.")
    return [row for row in rows if not names or row.name in names or row.method in names]
