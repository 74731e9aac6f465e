"""The non-zero weights of a ternary layer as lists of the panel's rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.native.integer import WAYS

PANEL_BYTES = 44 << 10
"""Size of the rows that are added together: most of them stay in the first-level cache, and offsets stay short."""

SHORT = 255
"""int8 numbers whose sum is sure to fit into 16 bits."""

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Lists:
    """What ``struct layer`` calls so.

    Attributes:
        blocks: int64, one row a block of a group: ``struct block``.
        runs: int32 pairs of steps and lines.
        order: int32, lines.
        list: uint16, bytes from the panel's beginning to a row.
        block_count: Blocks of a group.
        panel_rows: Rows of the largest panel, with that of zeros.
        wide: Whether a line's sum may need more than 16 bits.
    """

    blocks: NDArray[np.int64]
    runs: NDArray[np.int32]
    order: NDArray[np.int32]
    list: NDArray[np.uint16]
    block_count: int
    panel_rows: int
    wide: bool


def lists_of(lines: Bools, tile: int, subset: int) -> Lists:
    """Write the lists.

    Args:
        lines: (groups, lines, weights): which weights a line adds.
        tile: Positions.
        subset: Neighbouring weights of which every sum is a row of the panel.

    Returns:
        The lists.
    """
    groups, _, weights = lines.shape
    sums = (1 << subset) - 1
    most = subset * max(1, (PANEL_BYTES // (2 * tile) - 1) // sums)
    count = -(-weights // most)
    while True:
        size = -(-weights // (count * subset)) * subset
        bounds = [(at, min(at + size, weights)) for at in range(0, weights, size)]
        if size <= SHORT or all(lines[:, :, a:b].sum(2).max(initial=0) <= SHORT for a, b in bounds):
            break
        count += 1
    blocks: list[list[int]] = []
    parts: dict[str, list[NDArray[Any]]] = {"runs": [], "order": [], "list": []}
    for group in range(groups):
        for first, last in bounds:
            made = _block(lines[group, :, first:last], tile, subset)
            lengths = [sum(len(part) for part in parts[name]) for name in ("order", "list")]
            blocks.append([first, last - first, 2 * sum(map(len, parts["runs"])), len(made["runs"]), *lengths])
            for name, part in made.items():
                parts[name].append(part)
    return Lists(
        np.array(blocks, dtype=np.int64),
        np.concatenate(parts["runs"]).astype(np.int32).reshape(-1),
        np.concatenate(parts["order"]).astype(np.int32),
        np.concatenate([*parts["list"], np.zeros(1)]).astype(np.uint16),
        len(bounds),
        -(-size // subset) * sums + 1,
        int(lines.sum(2).max(initial=0)) > SHORT,
    )


def _block(lines: Bools, tile: int, subset: int) -> dict[str, NDArray[Any]]:
    """One block's lists; lines of equal length follow each other, so that loops of one length do."""
    ways, row_bytes = WAYS[tile], 2 * tile
    count, weights = lines.shape
    together = -(-weights // subset)
    whole = np.zeros((count, together * subset), dtype=np.int64)
    whole[:, :weights] = lines
    which = whole.reshape(count, together, subset) @ (1 << np.arange(subset))
    line, group = np.nonzero(which)
    rows = (group * ((1 << subset) - 1) + which[line, group] - 1) * row_bytes
    lengths = np.bincount(line, minlength=count)
    steps = -(-lengths // ways)
    order = np.argsort(steps, kind="stable")
    starts = np.empty(count, dtype=np.int64)
    starts[order] = np.concatenate([[0], np.cumsum(steps[order] * ways)[:-1]])
    # A list is filled up to whole steps with the panel's row of zeros, the last one.
    filled = np.full(int(steps.sum()) * ways, together * ((1 << subset) - 1) * row_bytes)
    inside = np.arange(len(line)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    filled[starts[line] + inside] = rows
    different, counts = np.unique(steps, return_counts=True)
    return {"runs": np.column_stack([different, counts]), "order": order, "list": filled}
