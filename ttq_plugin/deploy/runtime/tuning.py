"""The ways to run a layer, timed on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ttq_plugin.deploy.runtime.agreement import ROUNDED, difference
from ttq_plugin.deploy.runtime.compiled import Choice
from ttq_plugin.deploy.runtime.fused import INT8, TORCH, FusedLayer
from ttq_plugin.native.inference import RUN

TURNS = 7
"""Times that each way is timed; the least one counts, which other programs disturb least."""


@dataclass(frozen=True)
class LayerChoice:
    """What one layer was given, for one size of batch.

    Attributes:
        name: Name of the layer.
        choice: The way in which the layer runs.
        seconds: Time of a batch, as chosen.
        torch_seconds: Time of a batch by torch.
        additions: Additions of the sparse kernel for a sample, zero weights left out; 0 for another kernel.
    """

    name: str
    choice: Choice
    seconds: float
    torch_seconds: float
    additions: int


def candidates(layer: FusedLayer, x: Tensor) -> list[Choice]:
    """List the kernels that could run a layer.

    Args:
        layer: The layer.
        x: Its input.

    Returns:
        Our kernels; none where they do not fit, or would not be worth it.
    """
    if RUN is None or not layer.fits(x) or (layer.linear and x.numel() // x.shape[-1] < 8):
        return []
    several = 1
    if not layer.linear:
        out_h, out_w, _, _ = layer.spec.sizes(x.shape[-2] if x.dim() == 4 else 1, x.shape[-1])
        several = min(len(x), max(1, 256 // (out_h * out_w)))
    chunks = sorted({1, several})
    found = [Choice("dense", vectors, chunk) for vectors in (1, 2) for chunk in chunks]
    if layer.spec.ternary and layer.spec.rows < 1 << 16:
        found += [Choice("sparse", vectors, chunk) for vectors in (1, 2, 4) for chunk in chunks]
    return found


def fastest(name: str, layer: FusedLayer, x: Tensor, size: int) -> LayerChoice:
    """Time every way to run a layer on one input, in turns.

    Args:
        name: Name of the layer.
        layer: The layer.
        x: Its input.
        size: Samples in the batch.

    Returns:
        The fastest way among those whose outputs are torch's.
    """
    ways: dict[Choice, Callable[[], Tensor]] = {TORCH: lambda: layer.by_torch(x)}
    if layer.int8 is not None:
        ways[INT8] = lambda: layer.by_int8(x)
    expected = layer.by_torch(x)
    for choice in candidates(layer, x):
        if difference(layer.by_kernel(x, choice), expected, ROUNDED) is None:
            ways[choice] = partial(layer.by_kernel, x, choice)
    least = dict.fromkeys(ways, float("inf"))
    for turn in range(TURNS + 1):
        for choice, run in list(ways.items()):
            started = time.perf_counter()
            run()
            seconds = time.perf_counter() - started
            if turn:
                least[choice] = min(least[choice], seconds)
        if turn == 2:  # drop what is far slower than the best
            limit = 2 * min(least.values())
            ways = {choice: run for choice, run in ways.items() if least[choice] < limit or choice is TORCH}
    best = min(ways, key=lambda choice: least[choice])
    additions = _additions(layer, best, size) if best.kind == "sparse" else 0
    return LayerChoice(name, best, least[best], least[TORCH], additions)


def race(ways: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Time ways to run a model, in turns.

    Args:
        ways: Functions by name.

    Returns:
        The least seconds of each.
    """
    least = dict.fromkeys(ways, float("inf"))
    for turn in range(TURNS + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            if turn:
                least[name] = min(least[name], time.perf_counter() - started)
    return least


def _additions(layer: FusedLayer, choice: Choice, size: int) -> int:
    """Additions a sample of the program that was timed last."""
    program = [p for key, p in layer.programs.items() if key[2] == choice][-1]
    return program.additions // (size if isinstance(layer.layer, nn.Linear) else 1)
