"""The ways to run a layer on integers, compared with torch's result and timed on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ttq_plugin.deploy.host.plan import Plan, Way
from ttq_plugin.deploy.host.rooms import Room, segments
from ttq_plugin.deploy.integer.records import IntegerOp
from ttq_plugin.native.integer import Kernels

TURNS = 7
"""Times that each way is timed; the least one counts, which other programs disturb least."""

COMPARED = 4
"""Samples that torch computes, which takes long; a larger batch repeats them, and so must its results."""


@dataclass(frozen=True)
class Timed:
    """What a layer was given.

    Attributes:
        way: The way in which it runs; None if no way gave torch's integers, so that torch runs it.
        seconds: Seconds per batch.
        torch_seconds: Seconds per batch in torch, extrapolated from a few samples.
        additions: Number of additions per sample if it runs sparsely.
    """

    way: Way | None
    seconds: float
    torch_seconds: float
    additions: int


def tuned(kernels: Kernels, room: Room, op: IntegerOp, options: Mapping[Way, Plan], size: int) -> Timed:
    """Time the ways that give the right integers; the layer's result is in the room then.

    Args:
        kernels: The library.
        room: The buffer whose values this layer reads: those of ``COMPARED`` samples again and again.
        op: The layer.
        options: The ways with their plans.
        size: Samples.

    Returns:
        The fastest way.
    """
    result = room.tensors[op.output.buffer]
    few = min(size, COMPARED)
    again = torch.arange(size) % few
    started = time.perf_counter()
    room.run(kernels, segments([op], [None]), 0, few)
    by_torch = (time.perf_counter() - started) * size / few
    expected = result[again]
    least: dict[Way, float] = {}
    steps = {way: segments([op], [made]) for way, made in options.items()}
    for way, made in options.items():
        room.run(kernels, steps[way], made.work, size)
        if torch.equal(result, expected):
            least[way] = float("inf")
    if not least:
        result.copy_(expected)
        return Timed(None, by_torch, by_torch, 0)
    rivals = list(least)
    for turn in range(TURNS if len(rivals) > 1 else 1):
        for way in rivals:
            started = time.perf_counter()
            room.run(kernels, steps[way], options[way].work, size)
            least[way] = min(least[way], time.perf_counter() - started)
        if turn == 1:  # drop what is far slower than the best
            rivals = [way for way in rivals if least[way] < 1.5 * min(least.values())]
    best = min(rivals, key=lambda way: least[way])
    return Timed(best, least[best], by_torch, options[best].additions)
