"""Grids of a graph's values, from what calibration samples give."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ttq_plugin.deploy.integer.arithmetic import Affine
from ttq_plugin.deploy.integer.floats import run
from ttq_plugin.deploy.integer.records import Graph, Op
from ttq_plugin.deploy.program.steps import Buffer
from ttq_plugin.errors import InputError

KEPT = 1 << 14
"""Values that are kept of each tensor and batch, spread evenly."""

SHRUNK = torch.linspace(1.0, 0.25, 61, dtype=torch.float64)
"""Parts of the whole range that the least squared error is sought in."""

SATURATED = 0.01
"""Share of values beyond the range from which on a warning is given."""

SHARED = {"copy", "largest", "largest_pool"}
"""Kinds whose result has the grid of what they read, so that integers stay as they are."""

CALIBRATIONS = ("mse", "percentile")
"""How a range is chosen."""


@dataclass
class Seen:
    """Values that one tensor took."""

    low: float = 0.0
    high: float = 0.0
    kept: list[Tensor] = field(default_factory=list)

    def add(self, values: Tensor) -> None:
        """Note a batch's values."""
        flat = values.detach().reshape(-1).double()
        if not flat.numel():
            return
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        self.kept.append(flat[:: max(1, flat.numel() // KEPT)].clone())


@dataclass(frozen=True)
class Ranges:
    """Grids by buffer, and by layer for what its function of one number gets.

    Attributes:
        affines: The grids.
        saturated: Share of the calibration values beyond each grid.
    """

    affines: dict[Any, Affine]
    saturated: dict[Any, float]


def observe(graph: Graph, samples: Iterable[Tensor]) -> dict[Any, Seen]:
    """Run batches and note the values of every tensor.

    Args:
        graph: The model's graph.
        samples: Batches, each float (batch, numbers of a sample).

    Returns:
        What was seen, by buffer or layer; tensors that share a grid share it.

    Raises:
        InputError: If there is no sample, or a value is not finite.
    """
    leader: dict[Any, Any] = dict(_leaders(graph))
    found: dict[Any, Seen] = {}

    def note(key: Any, values: Tensor) -> None:
        if not bool(torch.isfinite(values).all()):
            raise InputError(
                "calibration needs finite values, got NaN or infinity inside the model; check the samples."
            )
        found.setdefault(leader.get(key, key), Seen()).add(values)

    count = 0
    with torch.no_grad():
        for x in samples:
            count += len(x)
            if len(x):
                run(graph, x, note)
    if not count:
        raise InputError("calibration needs at least one sample, got none; give batches of training inputs.")
    return {key: found[leader.get(key, key)] for key in [*leader, *(k for k in found if isinstance(k, Op))]}


def choose(seen: dict[Any, Seen], calibration: str = "mse", percentile: float = 99.99) -> Ranges:
    """Choose a grid for each tensor.

    Args:
        seen: What ``observe`` found.
        calibration: ``mse`` for the range with the least squared error, ``percentile`` for one that leaves out the
            outermost values.
        percentile: Percentage of the values that the range holds on either side.

    Returns:
        The grids.

    Raises:
        InputError: If the calibration is unknown, or the percentile is invalid.
    """
    if calibration not in CALIBRATIONS:
        raise InputError(f"calibration must be one of {', '.join(CALIBRATIONS)}, got {calibration!r}.")
    if not 50 < percentile <= 100:
        raise InputError(f"percentile must lie in (50, 100], got {percentile}; 99.99 is usual.")
    made: dict[int, tuple[Affine, float]] = {}
    ranges = Ranges({}, {})
    for key, values in seen.items():
        if id(values) not in made:
            made[id(values)] = _grid(values, calibration, percentile)
        ranges.affines[key], ranges.saturated[key] = made[id(values)]
    return ranges


def warn_saturated(ranges: Ranges, names: dict[Any, str]) -> None:
    """Warn of grids that many values lie beyond.

    Args:
        ranges: The grids.
        names: What to call a tensor.
    """
    far = {key: share for key, share in ranges.saturated.items() if share > SATURATED and key in names}
    if far:
        worst = max(far, key=lambda key: far[key])
        warnings.warn(
            f"{len(far)} of {len(names)} tensors saturate: {far[worst]:.1%} of the values of {names[worst]} lie beyond "
            "its range; a higher percentile widens it.",
            stacklevel=3,
        )


def _grid(seen: Seen, calibration: str, percentile: float) -> tuple[Affine, float]:
    values = torch.cat(seen.kept) if seen.kept else torch.zeros(1, dtype=torch.float64)
    low, high = seen.low, seen.high
    if calibration == "percentile":
        share = percentile / 100
        low, high = _quantile(values, 1 - share), _quantile(values, share)
    else:
        errors = []
        for part in SHRUNK.tolist():
            grid = Affine.of_range(low * part, high * part)
            exact = (grid.quantise(values).double() - grid.zero) * grid.scale
            errors.append(float((exact - values).square().mean()))
        best = float(SHRUNK[min(range(len(errors)), key=errors.__getitem__)])
        low, high = low * best, high * best
    grid = Affine.of_range(low, high)
    least, most = ((bound - grid.zero) * grid.scale for bound in (-128, 127))
    # Rounding, of values and of the zero point, moves a value by less than a step.
    beyond = (values < least - grid.scale) | (values > most + grid.scale)
    return grid, float(beyond.double().mean())


def _quantile(values: Tensor, share: float) -> float:
    ordered = values.sort().values
    return float(ordered[round(share * (len(ordered) - 1))])


def _leaders(graph: Graph) -> dict[Buffer, Buffer]:
    """Buffer -> the one whose grid it has."""
    leader: dict[Buffer, Buffer] = {graph.input: graph.input}

    def find(buffer: Buffer) -> Buffer:
        while leader[buffer] is not buffer:
            buffer = leader[buffer]
        return buffer

    for op in graph.ops:
        leader.setdefault(op.output.buffer, op.output.buffer)
        if op.kind in SHARED and op.inputs[0].buffer.constant is None:
            leader.setdefault(op.inputs[0].buffer, op.inputs[0].buffer)
            leader[find(op.inputs[0].buffer)] = find(op.output.buffer)
    return {buffer: find(buffer) for buffer in leader}
