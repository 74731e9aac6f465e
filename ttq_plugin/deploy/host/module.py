"""An integer network in this machine's kernels, with the same integers as the module it is made from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ttq_plugin.deploy.host.geometry import Geometry, geometry_of
from ttq_plugin.deploy.host.plan import Plan, Way, plan, ways_of
from ttq_plugin.deploy.host.rooms import Room, Segment, numbers_of, segments
from ttq_plugin.deploy.host.tuning import COMPARED, Timed, tuned
from ttq_plugin.deploy.integer.module import IntegerModule, flattened
from ttq_plugin.deploy.integer.records import IntegerOp
from ttq_plugin.native.integer import Kernels

MOST = 64
"""Largest number of samples computed at a time, so that memory does not grow with the batch."""


@dataclass(frozen=True)
class Schedule:
    """How batches up to a size are computed.

    Attributes:
        steps: The operations.
        work: Bytes of working memory.
        plans: The plans, which must be kept alive.
        layers: What each layer was given, by the number of its operation.
    """

    steps: list[Segment]
    work: int
    plans: list[Plan | None]
    layers: dict[int, Timed]


class HostModule(IntegerModule):
    """An ``IntegerModule`` in native kernels.

    Args:
        module: What it computes the same as.
        kernels: The library.
        example: int8 samples (some, numbers of a sample) that layers are timed on, of which the first few are kept.
        choose: Chooses among the ways to run a layer; None takes the fastest.
    """

    def __init__(
        self,
        module: IntegerModule,
        kernels: Kernels,
        example: Tensor,
        choose: Callable[[IntegerOp, list[Way]], Way] | None = None,
    ) -> None:
        super().__init__(module.program, module._template[0])
        self.saturated, self.kernels, self.choose = module.saturated, kernels, choose
        self.example = example[:COMPARED].clone()
        self.numbers = numbers_of(self.program)
        self._indexed = any(op.kind == "embed" for op in self.program.ops)
        plain = type(module._template[0]) is Tensor
        self._shape = self.program.shapes[1][0] if plain else None
        self.geometries: dict[int, Geometry] = {}
        for place, op in enumerate(self.program.ops):
            if op.kind == "layer" and (geometry := geometry_of(op, self.numbers)) is not None:
                self.geometries[place] = geometry
        self.schedules: dict[int, Schedule] = {}
        self.rooms: dict[int, list[Room]] = defaultdict(list)
        self.eval()

    def tune(self, size: int) -> Schedule:
        """Find the fastest way to run each layer for a batch size; happens automatically when a size is first seen.

        Args:
            size: Samples, a power of two.

        Returns:
            The schedule, which is kept.
        """
        room = Room(self.program, self.numbers, size)
        room.tensors[self.program.input].copy_(self.example[torch.arange(size) % len(self.example)])
        plans: list[Plan | None] = []
        layers: dict[int, Timed] = {}
        for place, op in enumerate(self.program.ops):
            made = None
            if place in self.geometries:
                geometry = self.geometries[place]
                ways = ways_of(op, geometry, size)
                if self.choose is not None:
                    ways = [self.choose(op, ways)]
                options = {way: plan(op, geometry, way) for way in ways}
                layers[place] = tuned(self.kernels, room, op, options, size)
                chosen = layers[place].way
                made = options[chosen] if chosen is not None else None
            if made is None and place not in layers:
                room.run(self.kernels, segments([op], [None]), 0, size)
            plans.append(made)
        work = max((each.work for each in plans if each is not None), default=0)
        self.schedules[size] = found = Schedule(segments(self.program.ops, plans), work, plans, layers)
        self.rooms[size].append(room)
        return found

    def forward(self, *positional: Any, **named: Any) -> Any:
        """Quantise the inputs, compute with integers, and return the real numbers that the result represents."""
        if self._indexed:
            return super().forward(*positional, **named)
        given: Any = positional[0] if len(positional) == 1 and not named else {**named} if named else positional
        x = given if self._plain(given) else flattened(given, self.program.input.size).contiguous()
        found = torch.empty(len(x), self.program.output.meta.numel())
        grid, result = self.program.given, self.program.result
        level = self.kernels.level

        def write(first: int, count: int, room: Room) -> None:
            size = self.program.input.size
            place = x.data_ptr() + 4 * first * size
            self.kernels.quantise(place, count * size, grid.scale, grid.zero, room.input, level)

        def read(first: int, count: int, room: Room) -> None:
            numbers = found.shape[1]
            q = room.result(count) if room.apart else None
            at = room.output if q is None else q.data_ptr()
            place = found.data_ptr() + 4 * first * numbers
            self.kernels.dequantise(at, count * numbers, result.scale, result.zero, place, level)

        self._all(len(x), write, read)
        return found.view(len(x), *self._shape) if self._shape is not None else self._nested(found)

    def _plain(self, x: Any) -> bool:
        """Whether inputs lie in memory as the kernels read them."""
        return (
            type(x) is Tensor
            and x.dtype is torch.float32
            and x.is_cpu
            and x.dim() > 0
            and x.is_contiguous()
            and x.numel() == len(x) * self.program.input.size
        )

    @torch.no_grad()
    def integers(self, q: Tensor) -> Tensor:
        """Compute on integers alone.

        Args:
            q: int8 (batch, numbers of a sample).

        Returns:
            int8 (batch, numbers of all outputs).

        Raises:
            InputError: If they are no integers of this type, or another number of them.
        """  # noqa: DOC502 - raised by what it calls
        self.check_integers(q)
        found = torch.empty(len(q), self.program.output.meta.numel(), dtype=torch.int8)

        def write(first: int, count: int, room: Room) -> None:
            room.tensors[self.program.input][:count].copy_(q[first : first + count])

        def read(first: int, count: int, room: Room) -> None:
            found[first : first + count] = room.result(count)

        self._all(len(q), write, read)
        return found

    def _all(
        self, samples: int, write: Callable[[int, int, Room], None], read: Callable[[int, int, Room], None]
    ) -> None:
        """Compute some samples at a time, each in a room that no other thread uses meanwhile."""
        for first in range(0, samples, MOST):
            count = min(MOST, samples - first)
            size = 1 << (count - 1).bit_length()
            schedule = self.schedules.get(size) or self.tune(size)
            free = self.rooms[size]
            try:
                room = free.pop()
            except IndexError:
                room = Room(self.program, self.numbers, size)
            try:
                write(first, count, room)
                room.run(self.kernels, schedule.steps, schedule.work, count)
                read(first, count, room)
            finally:
                free.append(room)
