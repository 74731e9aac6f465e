"""A compressed model that runs as fast as this machine lets it: for each layer, whatever is measured to be fastest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ttq_plugin.deploy.fused import INT8, TORCH, FusedLayer, bucket
from ttq_plugin.deploy.graph import fuse
from ttq_plugin.deploy.int8 import int8_layer
from ttq_plugin.deploy.native import RUN
from ttq_plugin.deploy.program import Choice
from ttq_plugin.errors import InputError

TURNS = 7
"""Times that each way is timed; the least one counts, which other programs disturb least."""


@dataclass(frozen=True)
class LayerChoice:
    """What one layer was given, for one size of batch.

    Attributes:
        name: of the layer.
        choice: how it runs.
        seconds: a batch, as chosen.
        torch_seconds: a batch by torch.
        additions: of the sparse kernel a sample, zero weights left out; 0 for another.
    """

    name: str
    choice: Choice
    seconds: float
    torch_seconds: float
    additions: int


class TernaryRuntime:
    """A model for inference on the CPU, with the same outputs up to the order of sums (1e-5 relative; not in int8).

    Convolutions and linear layers are fused with the BatchNorm, activation and max-pooling after them. For each, torch,
    a dense kernel and (if its weight is ternary) a sparse one are timed on this machine; the fastest is kept, and torch
    for the whole model, should that be faster still. Each power of two of the batch size is measured once, when first
    seen. Layers that may run in eight bits do where that is faster still.

    Args:
        model: in evaluation mode; not changed, but its parameters are shared, so do not train it any more.
        example_input: (batch, ...), float32, on the CPU; later inputs have its shape but for the batch.
        threads: over which a batch is spread; torch's own threads are left as they are.
        int8: names of the layers that may run with weights and inputs of eight bits, or True for all. Their inputs'
            ranges are those of the example, so let it be real samples, some hundreds; a layer whose outputs would be
            5 % off is left out.

    Raises:
        InputError: if the model is in training mode, does not take the example, or has no such layer.
    """

    def __init__(
        self, model: nn.Module, example_input: Tensor, *, threads: int = 1, int8: bool | Collection[str] = False
    ) -> None:
        if model.training:
            raise InputError("TernaryRuntime needs a model in evaluation mode, got one in training mode; call .eval().")
        if example_input.device.type != "cpu" or example_input.dtype != torch.float32 or len(example_input) < 1:
            raise InputError(
                "TernaryRuntime needs an example input (batch, ...) of float32 on the CPU, got "
                f"{tuple(example_input.shape)} {example_input.dtype} on {example_input.device}."
            )
        if threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}.")
        self.model, self.example = model, example_input[:1].clone()
        self._shape = self.example.shape[1:]
        self.fast, self.fused = fuse(model)
        self.table: dict[int, list[LayerChoice]] = {}
        self.whole: dict[int, bool] = {}
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._threads, self._lock = threads, threading.Lock()
        try:
            with torch.inference_mode():
                model(example_input)
        except Exception as error:
            raise InputError(f"the model does not take the example input: {str(error).splitlines()[0]}") from error
        self._allow(int8, example_input)
        self.tune(self._share(len(example_input)))

    def __call__(self, x: Tensor) -> Tensor:
        """The model's output.

        Args:
            x: (batch, ...) like the example.

        Returns:
            The same as the model's, up to rounding.

        Raises:
            InputError: if the shape or type is another one.
        """
        if torch.is_inference_mode_enabled():  # to enter it once more costs more than all else here
            return self._answer(x)
        with torch.inference_mode():
            return self._answer(x)

    def _answer(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self._shape or x.dtype is not torch.float32 or not x.is_cpu:
            raise InputError(
                f"the runtime was made for (batch, {', '.join(map(str, self._shape))}) float32 on the CPU, "
                f"got {tuple(x.shape)} {x.dtype} on {x.device}."
            )
        if not len(x):
            return self.model(x)
        share = self._share(len(x))
        if bucket(share) not in self.table:
            self.tune(share)
        if self._pool is None or len(x) == 1:
            return self._run(x)
        return torch.cat(list(self._pool.map(self._inference, x.split(share))))

    def tune(self, batch: int) -> None:
        """Measure for batches up to the next power of two of a size; done for each size by itself when needed.

        Args:
            batch: samples.
        """
        with self._lock, torch.inference_mode():
            size = bucket(batch)
            if size in self.table:
                return
            x = self.example.expand(size, *self.example.shape[1:]).contiguous()
            inputs = self._inputs(x)
            rows = []
            for name, layer in self.fused:
                if layer in inputs:
                    rows.append(_fastest(name, layer, inputs[layer], size))
                    layer.choices[size] = rows[-1].choice
            ours, theirs = _race(lambda: self.fast(x), lambda: self.model(x))
            self.whole[size] = ours > theirs
            self.table[size] = rows

    def _inputs(self, x: Tensor) -> dict[FusedLayer, Tensor]:
        """What each fused layer is given for a batch; a layer that is called twice is two of them, of one name."""
        inputs: dict[FusedLayer, Tensor] = {}
        hooks = [
            layer.register_forward_pre_hook(lambda layer, args: inputs.update({layer: args[0].clone()}))
            for _, layer in self.fused
        ]
        self.fast(x)
        for hook in hooks:
            hook.remove()
        return inputs

    @torch.inference_mode()
    def _allow(self, names: bool | Collection[str], x: Tensor) -> None:
        """Prepare the layers that may run in eight bits."""
        known = {name for name, _ in self.fused}
        asked = known if names is True else set(names or ())
        if unknown := sorted(asked - known):
            raise InputError(f"int8 must name layers among {', '.join(sorted(known))}, got {', '.join(unknown)}.")
        inputs = self._inputs(x) if asked else {}
        for name, layer in self.fused:
            if name in asked and layer in inputs:
                layer.int8 = int8_layer(layer.layer, layer.spec, inputs[layer])

    def size(self, batch: int) -> int:
        """The key of ``table`` that holds for a batch, which is spread over the threads."""
        return bucket(self._share(batch))

    def runs_as(self, row: LayerChoice, size: int) -> str:
        """The kind of choice by which a row of ``table[size]`` runs: torch's, where torch runs the whole model."""
        return "torch" if self.whole[size] else row.choice.kind

    def additions(self, batch: int = 1) -> int:
        """Additions a sample that the sparse kernels do at this batch size."""
        return sum(row.additions for row in self.table.get(bucket(batch), []))

    def __str__(self) -> str:
        lines = [f"{'batch':>5}  {'layer':28}  {'runs as':8}  {'us':>9}  {'torch us':>9}"]
        for size, rows in sorted(self.table.items()):
            for row in rows:
                kind, ours, torchs = self.runs_as(row, size), 1e6 * row.seconds, 1e6 * row.torch_seconds
                lines.append(f"{size:5}  {row.name:28}  {kind:8}  {ours:9.1f}  {torchs:9.1f}")
        return "\n".join(lines)

    def _share(self, samples: int) -> int:
        return -(-samples // self._threads)

    def _run(self, x: Tensor) -> Tensor:
        return self.model(x) if self.whole.get(bucket(len(x))) else self.fast(x)

    def _inference(self, x: Tensor) -> Tensor:
        with torch.inference_mode():  # it belongs to the thread
            return self._run(x)


def latency(model: nn.Module, example_input: Tensor, *, turns: int = 30) -> float:
    """Median seconds that a batch takes in a ``TernaryRuntime``, on one thread.

    Args:
        model: in evaluation mode.
        example_input: (batch, ...).
        turns: calls that are timed.

    Returns:
        Seconds.
    """
    runtime = TernaryRuntime(model, example_input)
    runtime(example_input)
    times = []
    for _ in range(turns):
        started = time.perf_counter()
        runtime(example_input)
        times.append(time.perf_counter() - started)
    return sorted(times)[turns // 2]


def _candidates(layer: FusedLayer, x: Tensor) -> list[Choice]:
    """The kernels that could run a layer on such an input."""
    linear = isinstance(layer.layer, nn.Linear)
    if RUN is None or (linear and x.numel() // x.shape[-1] < 8) or x.dtype != torch.float32:
        return []
    height, width = (1, x.numel() // x.shape[-1]) if linear else (x.shape[-2] if x.dim() == 4 else 1, x.shape[-1])
    out_h, out_w, pooled_h, pooled_w = layer.spec.sizes(height, width)
    if x.dim() not in ({2, 3, 4} if linear else {layer.layer.weight.dim()}) or min(pooled_h, pooled_w) < 1:
        return []
    several = 1 if linear else min(len(x), max(1, 256 // (out_h * out_w)))
    chunks = sorted({1, several})
    found = [Choice("dense", vectors, chunk) for vectors in (1, 2) for chunk in chunks]
    if layer.spec.ternary and layer.spec.rows < 1 << 16:
        found += [Choice("sparse", vectors, chunk) for vectors in (1, 2, 4) for chunk in chunks]
    return found


def _fastest(name: str, layer: FusedLayer, x: Tensor, size: int) -> LayerChoice:
    """Time every way on one input, in turns."""
    ways: dict[Choice, Callable[[], Tensor]] = {TORCH: lambda: layer.by_torch(x)}
    if layer.int8 is not None:
        ways[INT8] = lambda: layer.by_int8(x)
    for choice in _candidates(layer, x):
        ways[choice] = lambda choice=choice: layer.by_kernel(x, choice)
    least = dict.fromkeys(ways, float("inf"))
    for turn in range(TURNS + 1):
        for choice, run in list(ways.items()):
            started = time.perf_counter()
            run()
            seconds = time.perf_counter() - started
            if turn:
                least[choice] = min(least[choice], seconds)
        if turn == 2:  # who is far behind is out
            best = min(least.values())
            ways = {choice: run for choice, run in ways.items() if least[choice] < 2 * best or choice is TORCH}
    best = min(ways, key=lambda choice: least[choice])
    additions = _additions(layer, best, size) if best.kind == "sparse" else 0
    return LayerChoice(name, best, least[best], least[TORCH], additions)


def _additions(layer: FusedLayer, choice: Choice, size: int) -> int:
    """Additions a sample of the program that was timed last."""
    program = [p for key, p in layer.programs.items() if key[2] == choice][-1]
    return program.additions // (size if isinstance(layer.layer, nn.Linear) else 1)


def _race(ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> tuple[float, float]:
    """Least seconds of both, in turns."""
    least = [float("inf")] * 2
    for turn in range(TURNS + 1):
        for place, run in enumerate((ours, theirs)):
            started = time.perf_counter()
            run()
            if turn:
                least[place] = min(least[place], time.perf_counter() - started)
    return least[0], least[1]
