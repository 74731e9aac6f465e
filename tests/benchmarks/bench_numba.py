"""Why the kernels are C: the sparse kernel beside the same loops compiled by numba, on the ESR 2D CNN's convolutions.

    pip install numba; python -m tests.benchmarks.bench_numba

One core, one sample, 94.2 % zeros; the panel (im2col), the sums and both scales, nothing fused behind them. Layers take
turns; medians of the ratio within a turn, with quartiles. Also how long numba compiles, in each process anew unless its
cache can be written.
"""

from __future__ import annotations

import statistics
import time

import numba
import numpy as np
import torch
from torch import nn

from tests.benchmarks.bench_runtime import LAYERS, thresholded
from ttq_plugin.deploy.program.fusion import Tail
from ttq_plugin.deploy.runtime.compiled import Choice
from ttq_plugin.deploy.runtime.fused import FusedLayer

TURNS, TILES = 200, (16, 64)
SIZES = {"conv2": (16, 18), "conv3": (8, 9), "conv4": (4, 4)}


@numba.njit(fastmath=True, boundscheck=False)
def sparse(planes, offsets, places, tile, starts, rows, scales, out):
    """Flat planes, a row's offset and a position's place in them -> out (channels, positions)."""
    positions = len(places)
    panel = np.empty((len(offsets), tile), dtype=np.float32)
    sums = np.empty((2, tile), dtype=np.float32)
    for first in range(0, positions, tile):
        count = min(tile, positions - first)
        for row in range(len(offsets)):
            for i in range(count):
                panel[row, i] = planes[offsets[row] + places[first + i]]
        for o in range(out.shape[0]):
            for sign in range(2):
                sums[sign, :] = 0
                for r in range(starts[o, sign], starts[o, sign + 1]):
                    for i in range(tile):
                        sums[sign, i] += panel[rows[r], i]
            for i in range(count):
                out[o, first + i] = scales[o, 0] * sums[0, i] + scales[o, 1] * sums[1, i]


def layout(padded: np.ndarray, kernel: int = 3):
    """Flat planes, where each row of the panel begins, and where each position lies after that."""
    channels, high, wide = padded.shape
    c, y, x = np.meshgrid(np.arange(channels), np.arange(kernel), np.arange(kernel), indexing="ij")
    offsets = (c * high * wide + y * wide + x).ravel()
    down, right = np.meshgrid(np.arange(high - kernel + 1), np.arange(wide - kernel + 1), indexing="ij")
    return padded.ravel(), offsets, (down * wide + right).ravel()


def lists(weight: np.ndarray):
    """Where each channel's positive and negative weights are."""
    matrix = weight.reshape(len(weight), -1)
    parts = [[np.flatnonzero(row > 0), np.flatnonzero(row < 0)] for row in matrix]
    ends = np.cumsum([len(part) for pair in parts for part in pair]).reshape(-1, 2)
    starts = np.column_stack([np.concatenate([[0], ends[:-1, 1]]), ends]).astype(np.int64)
    scales = np.stack([matrix.max(1), matrix.min(1)], 1).astype(np.float32)
    return starts, np.concatenate([part for pair in parts for part in pair]).astype(np.int64), scales


def race(name: str, conv: nn.Conv2d) -> str:
    """One layer in turns, in words."""
    bare = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=False)
    bare.weight = conv.weight
    x = torch.randn(1, conv.in_channels, *SIZES[name])
    layer, out = FusedLayer(bare, Tail()), np.empty((conv.out_channels, x[0, 0].numel()), np.float32)
    flat, numbers = layout(np.pad(x[0].numpy(), ((0, 0), (1, 1), (1, 1)))), lists(conv.weight.detach().numpy())
    started = time.perf_counter()
    sparse(*flat, TILES[0], *numbers, out)
    compiling = time.perf_counter() - started
    expected = bare(x)[0].flatten(1).numpy()
    difference = np.abs(out - expected).max() / np.abs(expected).max()
    ways = {f"C, {v} vectors": lambda v=v: layer.by_kernel(x, Choice("sparse", v)) for v in (1, 2, 4)}
    ways |= {f"numba, tile {t}": lambda t=t: sparse(*flat, t, *numbers, out) for t in TILES}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(TURNS):
        for way, run in ways.items():
            run()
            started = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - started)
    middles = {way: statistics.median(values) for way, values in seconds.items()}
    ours, theirs = (min((w for w in ways if w.startswith(k)), key=middles.__getitem__) for k in ("C", "numba"))
    low, middle, high = statistics.quantiles([n / c for n, c in zip(seconds[theirs], seconds[ours], strict=True)], n=4)
    return (
        f"{name}: {ours} {1e6 * middles[ours]:.0f} us; {theirs} {1e6 * middles[theirs]:.0f} us, {middle:.2f} times as "
        f"long (quartiles {low:.2f} to {high:.2f}), compiled in {compiling:.1f} s; outputs differ by {difference:.0e}"
    )


def main() -> None:
    torch.set_num_threads(1)
    model = thresholded(0.942)
    with torch.inference_mode():
        for name in LAYERS:
            print(race(name, model.get_submodule(name)), flush=True)


if __name__ == "__main__":
    main()
