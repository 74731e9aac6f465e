"""A layer on integers as the kernels are given it, for one way to run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.deploy.host.geometry import Geometry
from ttq_plugin.deploy.host.lists import Lists, lists_of
from ttq_plugin.deploy.integer.records import IntegerOp
from ttq_plugin.native.integer import DENSE, DENSE_TILES, DOTS, ROW, SLACK, SPARSE, WAYS, Layer

KINDS = {"sparse": SPARSE, "dense": DENSE, "dots": DOTS}
UNSIGNED = 128
"""What is added to int8 inputs where kernels take unsigned bytes."""

FEW = 4
"""Results of a channel and sample up to which ``dots`` is worth a try."""

CHUNKED = 16
"""Samples that share tiles, at most."""


@dataclass(frozen=True)
class Way:
    """One way to run a layer.

    Attributes:
        kind: ``sparse`` (adds the inputs of non-zero ternary weights), ``dense`` or ``dots`` (bytes, over many or few
            positions).
        tile: Positions that are computed together.
        subset: For a sparse layer: number of neighbouring weights whose sums are computed once for all channels.
        chunk: Samples that share tiles.
    """

    kind: str
    tile: int = 16
    subset: int = 1
    chunk: int = 1


@dataclass
class Plan:
    """A struct, the arrays that it points to, and bytes of working memory.

    Attributes:
        layer: The struct.
        arrays: The arrays, which must be kept alive.
        work: Bytes.
        additions: Number of additions per sample in a sparse layer.
    """

    layer: Layer
    arrays: list[NDArray[Any]]
    work: int
    additions: int


def ways_of(op: IntegerOp, geometry: Geometry, samples: int) -> list[Way]:
    """List the ways that may be the fastest.

    Args:
        op: The layer.
        geometry: Its places.
        samples: Number of samples in the batch.

    Returns:
        At least one.
    """
    assert op.weights is not None
    positions = geometry.windows * geometry.members * samples
    found = []
    if geometry.members == 1 and geometry.windows <= FEW:
        found.append(Way("dots"))
    tiles = [tile for tile in DENSE_TILES if tile >= geometry.members and (tile == 16 or tile < 2 * positions)]
    found += [Way("dense", tile, chunk=_chunk(geometry, tile, samples)) for tile in tiles]
    if op.weights.ternary:
        share = float((op.weights.codes == 0).double().mean())
        subsets = (1,) if share > 0.8 else (2, 3, 4)
        tiles = [tile for tile in WAYS if tile >= geometry.members and (tile == 16 or tile < 2 * positions)]
        found += [Way("sparse", t, subset, _chunk(geometry, t, samples)) for t in tiles for subset in subsets]
    return found or [Way("sparse" if op.weights.ternary else "dense", 128 if op.weights.ternary else 64)]


def _chunk(geometry: Geometry, tile: int, samples: int) -> int:
    """How many samples share tiles: the fewest with which hardly any place of a tile is left over."""
    windows = max(1, tile // geometry.members)
    used = {}
    for chunk in range(1, min(samples, CHUNKED) + 1):
        results = chunk * geometry.windows
        used[chunk] = results / (-(-results // windows) * windows)
    return next(chunk for chunk, share in used.items() if share >= 0.97 * max(used.values()))


def plan(op: IntegerOp, geometry: Geometry, way: Way) -> Plan:
    """Lay out a layer's numbers.

    Args:
        op: The layer.
        geometry: Its places.
        way: The way in which it runs.

    Returns:
        The plan.
    """
    assert op.weights is not None
    lines, factors, constants = _numbers(op, way.kind)
    groups = geometry.sizes["groups"]
    arrays: dict[str, NDArray[Any]] = {"factors": factors, "constants": constants}
    arrays["places"], arrays["sources"] = geometry.planes.places(way.chunk), geometry.planes.sources
    if geometry.planes.gathers is not None:
        arrays["gathers"] = geometry.planes.gathers
    sizes = geometry.sizes | {"kind": KINDS[way.kind], "out_channels": len(factors) // groups}
    sizes |= {"zero_in": op.zeros[0], "shift": op.shift, "zero": op.zero, "low": op.low, "high": op.high}
    sizes |= {"lines": len(lines) // len(factors), "tile": way.tile, "windows": max(1, way.tile // geometry.members)}
    sizes |= {"chunk": way.chunk, "subset": way.subset, "wide": 1, "table_first": 0}
    if op.table is not None:
        arrays["table"] = table = np.ascontiguousarray(op.table.numpy(), dtype=np.int8)
        sizes["table_first"] = int(geometry.members > 1 and bool((np.diff(table.astype(np.int16)) < 0).any()))
    matrix = lines.reshape(groups, -1, geometry.rows)
    if way.kind == "sparse":
        made = lists_of(matrix != 0, way.tile, way.subset)
        arrays |= {name: getattr(made, name) for name in ("blocks", "runs", "order", "list")}
        sizes |= {"block_count": made.block_count, "wide": int(made.wide)}
        panel = made.panel_rows * way.tile * 2
    else:
        made = None
        arrays["weights"] = _dense(matrix) if way.kind == "dense" else _rows(matrix)
        panel = -(-geometry.rows // 4) * 4 * way.tile + 4 * (way.tile + 64)
    work = _work(sizes, geometry, panel, matrix.shape[1])
    layer = Layer(**sizes)
    for name, array in arrays.items():
        setattr(layer, name, array.ctypes.data)
    return Plan(layer, list(arrays.values()), work, _additions(made, geometry, matrix))


def _additions(made: Lists | None, geometry: Geometry, matrix: NDArray[Any]) -> int:
    return int(np.count_nonzero(matrix)) * geometry.windows * geometry.members if made else 0


def _numbers(op: IntegerOp, kind: str) -> tuple[NDArray[np.int8], NDArray[np.int32], NDArray[np.int64]]:
    """Codes of each sum (two an output channel, if the layer has two), two factors and one constant a channel."""
    weights = op.weights
    assert weights is not None
    codes = np.ascontiguousarray(weights.codes.numpy().reshape(len(weights.codes), -1), dtype=np.int8)
    channels = len(codes)
    positive = weights.positive.expand(channels).numpy()
    negative = np.zeros(channels, dtype=np.int64)
    two = weights.negative is not None
    if weights.negative is not None:
        negative = weights.negative.expand(channels).numpy()
        two = kind == "sparse" or bool((positive != negative).any())
    lines = np.stack([codes.clip(min=0), (-codes).clip(min=0)], 1).reshape(2 * channels, -1) if two else codes
    negative = negative if two else np.zeros_like(negative)
    constants = np.zeros(channels, dtype=np.int64)
    if weights.bias.numel():
        constants += (weights.bias << (op.shift - weights.bias_bits)).numpy()
    # Kernels add raw inputs, or unsigned ones; what their zero adds is known beforehand.
    zero = op.zeros[0] + (0 if kind == "sparse" else UNSIGNED)
    counts = lines.sum(1, dtype=np.int64).reshape(channels, -1)
    constants -= zero * counts[:, 0] * positive
    if two:
        constants += zero * counts[:, 1] * negative
    return lines, np.ascontiguousarray(np.stack([positive, negative], 1), dtype=np.int32), constants


def _dense(matrix: NDArray[np.int8]) -> NDArray[np.int8]:
    """(groups, lines, rows) as (groups, lines / 4, rows / 4, 4, 4), filled up with zeros."""
    groups, lines, rows = matrix.shape
    whole = np.zeros((groups, -(-lines // 4) * 4, -(-rows // 4) * 4), dtype=np.int8)
    whole[:, :lines, :rows] = matrix
    split = whole.reshape(groups, whole.shape[1] // 4, 4, whole.shape[2] // 4, 4)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 2, 4))


def _rows(matrix: NDArray[np.int8]) -> NDArray[np.int8]:
    """(groups, lines, rows), rows filled up with zeros."""
    return np.pad(matrix, ((0, 0), (0, 0), (0, -matrix.shape[2] % ROW)))


def _work(sizes: dict[str, int], geometry: Geometry, panel: int, lines: int) -> int:
    """Place the parts of the working memory, and return its bytes."""

    def after(place: int, size: int) -> int:
        return -(-(place + size + SLACK) // ROW) * ROW

    number = 2 if sizes["kind"] == SPARSE else 1
    channels = sizes["groups"] * sizes["channels"]
    planes = channels * geometry.planes.numbers * sizes["chunk"] * number
    sizes["panel_at"] = after(0, planes if sizes["kind"] != DOTS else geometry.rows + ROW)
    sizes["sums_at"] = after(sizes["panel_at"], panel)
    sizes["results_at"] = after(sizes["sums_at"], (lines + 3) * sizes["tile"] * (4 if sizes["wide"] else 2))
    sizes["results"] = -(-sizes["windows"] // 8) * 8
    return after(sizes["results_at"], sizes["out_channels"] * sizes["results"])
