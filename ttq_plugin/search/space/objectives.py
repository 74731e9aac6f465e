"""The quantities that a search may optimise or limit: their names, meanings and ranges."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ttq_plugin.errors import InputError
from ttq_plugin.search.space.ranges import unknown
from ttq_plugin.tasks.metrics import METRICS, Metric


@dataclass(frozen=True)
class Quantity:
    """A number that a trial has: what it means, and the values it can take at all."""

    meaning: str
    low: float = -math.inf
    high: float = math.inf


GAINS: dict[str, Quantity] = {
    "cr_gain_total": Quantity(
        "storage saved in the whole model, at 34 bits per non-zero weight as in the papers", high=1
    ),
    "cr_gain_quantized": Quantity("the same for the quantised layers only", high=1),
    "cr_gain_entropy": Quantity("storage saved in the whole model, at the Shannon bound of its weights", high=1),
    "cr_gain_base3": Quantity("storage saved in the whole model, at five weights per byte", high=1),
    "cr_gain_dense2": Quantity("storage saved in the whole model, at two bits per weight", high=1),
    "cr_gain_disk": Quantity("storage saved by the packed file, compared with 32 bits per parameter", high=1),
    "ec_gain_total": Quantity("energy saved in the whole model, by the papers' equations", high=1),
    "srqw": Quantity("share of zeros among the ternary weights", 0, 1),
    "latency_gain": Quantity("time saved by the packed runtime, measured on this machine with one thread", high=1),
    "flash_gain": Quantity("flash saved by the integer C code, compared with 32 bits per parameter", high=1),
    "ram_gain": Quantity(
        "memory saved by the integer C code, compared with the float C code of the same model", high=1
    ),
}
"""What a search may optimise besides the task's metric. All are maximised; a size or a cost enters as its gain."""

PLAIN: dict[str, Quantity] = {
    "bits_coo34": Quantity("bits of the whole model, at 34 bits per non-zero weight", 0),
    "bits_entropy": Quantity("bits of the whole model, at the Shannon bound", 0),
    "bits_base3": Quantity("bits of the whole model, at five weights per byte", 0),
    "bits_dense2": Quantity("bits of the whole model, at two bits per weight", 0),
    "bits_disk": Quantity("bits of the packed file", 0),
    "mult_adds": Quantity("multiplications and additions per sample", 0),
    "ec_total": Quantity("joules per sample, by the papers' equations", 0),
    "latency": Quantity("seconds per sample, measured on this machine with one thread", 0),
    "flash": Quantity("bytes of code and constants of the integer C code on a Cortex-M0", 0),
    "ram": Quantity("bytes of static memory of the integer C code", 0),
}
"""The plain quantities behind the gains, which a constraint may name too."""


def of_metric(metric: Metric) -> dict[str, Quantity]:
    """The task's metric as a quantity under its name."""
    return {metric.name: Quantity(f"{metric.label} on validation data", metric.low, metric.high)}


OBJECTIVES: dict[str, Quantity] = of_metric(METRICS["mcc"]) | GAINS
"""What a search of a task that is scored by MCC may optimise."""

LIMITED: dict[str, Quantity] = OBJECTIVES | PLAIN
"""What a constraint of such a search may name."""

DISK = frozenset({"cr_gain_disk", "bits_disk"})
"""Quantities that need the packed file to be written."""

LATENCY = frozenset({"latency_gain", "latency"})
"""Quantities that need the model to be timed."""

FIRMWARE = frozenset({"flash", "ram", "flash_gain", "ram_gain"})
"""Quantities that need the model on integers."""

_CONSTRAINT = re.compile(r"\s*(\w+)\s*(>=|<=)\s*(\S+)\s*")


def gains(metrics: Mapping[str, float]) -> dict[str, float]:
    """Compute the gains, 1 - compressed / full precision, of the plain quantities that were measured.

    Args:
        metrics: A trial's `bits_disk` with `bits_fp32`, and `latency`, `flash` and `ram` each with its `..._fp32`.

    Returns:
        The metrics, with `cr_gain_disk`, `latency_gain`, `flash_gain` and `ram_gain` if they can be computed.
    """
    pairs = {"cr_gain_disk": ("bits_disk", "bits_fp32"), "latency_gain": ("latency", "latency_fp32")}
    pairs |= {"flash_gain": ("flash", "flash_fp32"), "ram_gain": ("ram", "ram_fp32")}
    found = {
        name: 1 - metrics[small] / metrics[full]
        for name, (small, full) in pairs.items()
        if small in metrics and metrics.get(full, 0) > 0
    }
    return {**metrics, **found}


@dataclass(frozen=True)
class Constraint:
    """A limit on one quantity of a trial.

    Attributes:
        name: Name of the quantity.
        least: Whether the limit is the smallest allowed value; otherwise it is the largest.
        limit: The limit in the quantity's unit; scores and gains are fractions.
    """

    name: str
    least: bool
    limit: float

    @classmethod
    def parse(cls, text: str, quantities: Mapping[str, Quantity] = LIMITED) -> Constraint:
        """A constraint such as `mcc >= 0.90`.

        Args:
            text: A quantity, >= or <=, and a number.
            quantities: What may be limited, by name.

        Returns:
            The constraint.

        Raises:
            InputError: If it is not of that form, names an unknown quantity, or nothing can satisfy it.
        """
        match = _CONSTRAINT.fullmatch(text)
        if match is None:
            raise InputError(f"must be a quantity, >= or <=, and a number, such as mcc >= 0.90, got {text!r}")
        name, sign, number = match.groups()
        if name not in quantities:
            raise InputError(unknown("quantity", name, quantities))
        try:
            limit = float(number)
        except ValueError:
            limit = math.nan
        if not math.isfinite(limit):
            raise InputError(f"must have a finite number after {sign}, got {number!r}")
        found = quantities[name]
        if (sign == ">=" and limit > found.high) or (sign == "<=" and limit < found.low):
            most, edge = ("at most", found.high) if sign == ">=" else ("at least", found.low)
            raise InputError(f"nothing satisfies {text.strip()!r}: {name} is {most} {edge:g}")
        return cls(name, sign == ">=", limit)

    def violation(self, value: float) -> float:
        """By how much a value violates the limit, 0 or less if it does not; relative to the limit if that exceeds 1."""
        # The samplers add up the violations of a trial: a limit in bits must not outweigh one in fractions.
        return (self.limit - value if self.least else value - self.limit) / max(1.0, abs(self.limit))

    def __str__(self) -> str:
        return f"{self.name} {'>=' if self.least else '<='} {self.limit:g}"


def check_together(constraints: Sequence[Constraint]) -> None:
    """Check that a trial can satisfy all constraints at once.

    Args:
        constraints: The constraints of one search.

    Raises:
        InputError: If two of them exclude each other.
    """
    for low in (c for c in constraints if c.least):
        for high in (c for c in constraints if not c.least and c.name == low.name):
            if low.limit > high.limit:
                raise InputError(f"nothing satisfies both {low} and {high}")


def violations(constraints: Iterable[Constraint], metrics: Mapping[str, float]) -> dict[str, float]:
    """Each constraint's violation by its text; a quantity that the trial does not have violates its limit."""
    return {str(c): c.violation(metrics[c.name]) if c.name in metrics else 1.0 for c in constraints}
