"""A channel of a layer's input as the kernels lay it out: padded, and taken apart by the step between windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.native.integer import GATHERED, REACH

GATHER = np.dtype([("from", "<i4"), ("inside", "<u4"), ("at", "u1", GATHERED)])
"""``struct gather`` of the kernels."""


@dataclass(frozen=True)
class Planes:
    """The parts of a padded channel.

    Attributes:
        phases: How many parts: one for each row and column modulo the step between windows.
        plane: Numbers of a part.
        width: Width of the part's rows.
        offsets: int64 (kernel rows, kernel columns, places of the window, 2): the part, and where in it the first
            window's input lies.
        sources: int32 (phases, plane): in a channel of the input, or -1 for padding.
        gathers: The same for each 32 numbers, or None where their inputs lie too far apart.
    """

    phases: int
    plane: int
    width: int
    offsets: NDArray[np.int64]
    sources: NDArray[np.int32]
    gathers: NDArray[Any] | None

    @property
    def numbers(self) -> int:
        """Number of values of a channel."""
        return self.phases * self.plane

    def places(self, chunk: int) -> NDArray[np.int32]:
        """Where the first window's input lies for each weight and place of the window, given the samples per part."""
        return np.ascontiguousarray(self.offsets[..., 0] * chunk * self.plane + self.offsets[..., 1], dtype=np.int32)


def planes_of(more: dict[str, Any], windows: tuple[int, int]) -> Planes:
    """Take a layer's channels apart.

    Args:
        more: The layer's geometry.
        windows: Rows and columns of its pooled results.

    Returns:
        The parts.
    """
    pool = more["pool"] or {"size": (1, 1), "stride": (1, 1)}
    steps, sizes, lengths, firsts = [], [], [], []
    for dim in (0, 1):
        inside = np.arange(more["kernel"][dim])[:, None] * more["dilation"][dim]
        first = inside + np.arange(pool["size"][dim])[None, :] * more["stride"][dim]  # (kernel, window)
        step = pool["stride"][dim] * more["stride"][dim] if windows[dim] > 1 else 1
        steps.append(step)
        firsts.append(first)
        sizes.append((more["rows"], more["columns"])[dim])
        lengths.append(-(-((windows[dim] - 1) * step + int(first.max()) + 1) // step))
    (step_h, step_w), (high, wide) = steps, lengths
    rows, columns = firsts[0][:, None, :, None], firsts[1][None, :, None, :]
    part = rows % step_h * step_w + columns % step_w
    place = rows // step_h * wide + columns // step_w
    offsets = np.stack([part, place], -1).reshape(*more["kernel"], -1, 2)
    sources = _sources(more, steps, lengths, sizes)
    return Planes(step_h * step_w, high * wide, wide, offsets, sources, _gathers(sources))


def _sources(more: dict[str, Any], steps: list[int], lengths: list[int], sizes: list[int]) -> NDArray[np.int32]:
    """Where each number of each part comes from."""
    along = []
    for dim in (0, 1):
        at = np.arange(lengths[dim])[None, :] * steps[dim] + np.arange(steps[dim])[:, None] - more["padding"][dim]
        along.append((at * more["steps"][1 + dim], (at >= 0) & (at < sizes[dim])))  # (phase, place)
    (rows, rows_in), (columns, columns_in) = along
    places = rows[:, None, :, None] + columns[None, :, None, :]
    inside = rows_in[:, None, :, None] & columns_in[None, :, None, :]
    found = np.where(inside, places, -1).reshape(steps[0] * steps[1], -1)
    return np.ascontiguousarray(found, dtype=np.int32)


def _gathers(sources: NDArray[np.int32]) -> NDArray[Any] | None:
    """32 numbers at a time."""
    phases, plane = sources.shape
    whole = np.full((phases, -(-plane // GATHERED) * GATHERED), -1, dtype=np.int64)
    whole[:, :plane] = sources
    whole = whole.reshape(-1, GATHERED)
    inside = whole >= 0
    first = np.where(inside, whole, np.iinfo(np.int64).max).min(1)
    first = np.where(inside.any(1), first, 0)
    at = np.where(inside, whole - first[:, None], 0)
    if at.max(initial=0) >= REACH:
        return None
    found = np.zeros(len(whole), dtype=GATHER)
    found["from"], found["at"] = first, at
    found["inside"] = (inside.astype(np.uint64) << np.arange(GATHERED, dtype=np.uint64)).sum(1)
    return found
