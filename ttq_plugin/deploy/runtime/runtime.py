"""A compressed model that runs as fast as this machine lets it: for each layer, whatever is measured to be fastest."""

from __future__ import annotations

import os
import threading
import time
import warnings
import weakref
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.deploy.runtime.agreement import (
    EXACT,
    ROUNDED,
    asked,
    difference,
    disagreement,
    takes,
)
from ttq_plugin.deploy.runtime.checks import check, finite, form_of, kept_buffers, signature, unsteady
from ttq_plugin.deploy.runtime.forms import Form, as_graph, as_layers
from ttq_plugin.deploy.runtime.fused import FusedLayer, bucket
from ttq_plugin.deploy.runtime.int8 import int8_layer
from ttq_plugin.deploy.runtime.spread import reads_values, rows_apart, split
from ttq_plugin.deploy.runtime.tuning import LayerChoice, fastest, race
from ttq_plugin.errors import InputError, first_line
from ttq_plugin.support.inputs import batch_size, call, join, kind, map_tensors, repeated

KEPT = 4
"""Samples of the example that are kept to measure on."""

INT8_ROUNDED = 0.5
"""As ``ROUNDED``, where some layers run in eight bits; each of them was compared by itself."""


class TernaryRuntime:
    """A model for inference on the CPU, with the same outputs up to the order of sums (1e-5 relative; not in int8).

    Convolutions and linear layers are fused with the BatchNorm, activation and max-pooling after them. For each, torch,
    a dense kernel and (if its weight is ternary) a sparse one are timed on this machine; the fastest is kept, and torch
    for the whole model, should that be faster still. Each power of two of the batch size is measured once, when first
    seen. Layers that may run in eight bits do where that is faster still.

    When it is made, the runtime compares itself with the model on the example, on other values and on other batch
    sizes; inputs of another length are compared when they first come. Where the traced model disagrees, the model's own
    code runs with only its layers replaced; where that disagrees too, torch runs the model, and ``fallback`` and a
    warning say why.

    Args:
        model: in evaluation mode; not changed, but its parameters are shared, so do not train it any more.
        example_input: inputs on the CPU, (batch, ...): a tuple is the positional arguments, a dict the keyword
            arguments, anything else the one argument. Floating-point tensors are float32. Later inputs are of the same
            form; their sizes may differ as far as the model allows it.
        threads: over which a batch is spread, if each sample's outputs depend on this sample alone; torch's own threads
            are left as they are, but for one in a forked process, where torch has no others.
        int8: names of the layers that may run with weights and inputs of eight bits, or True for all. Their inputs'
            ranges are those of the example, so let it be real samples, some hundreds; a layer whose outputs would be
            5 % off is left out.

    Attributes:
        form: ``graph`` (traced and fused), ``layers`` (the model's own code, layers replaced) or ``torch``.
        fallback: why torch runs the whole model, or None.
        table: what each layer was given, for each power of two of the batch size that was seen.

    Raises:
        InputError: if the model is in training mode, does not take the example, or has no such layer.
    """

    def __init__(
        self, model: nn.Module, example_input: Any, *, threads: int = 1, int8: bool | Collection[str] = False
    ) -> None:
        if threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}.")
        self.model, self._threads = model, threads
        self.table: dict[int, list[LayerChoice]] = {}
        self.whole: dict[int, bool] = {}
        self.fallback: str | None = None
        self._careful: dict[int, float] = {}
        self._met: dict[Any, bool] = {}
        self._after_fork()
        with torch.inference_mode(), kept_buffers(model):
            check(model, example_input)
            self._signature = signature(example_input)
            plain = isinstance(example_input, Tensor)
            self._shape, self._dtype = (example_input.shape[1:], example_input.dtype) if plain else (None, None)
            self._dynamic = takes(model, example_input, 1) and takes(model, example_input, 3)
            samples = batch_size(example_input)
            self.example = repeated(example_input, min(KEPT, samples) if self._dynamic else samples)
            self.form, self._form = self._made(example_input)
            self.fused = self._form.fused
            self._apart = self._dynamic and threads > 1 and self._rows_apart()
            self._allow(int8, example_input)
            self.tune(self._share(samples))
        _LIVE.add(self)

    def __call__(self, inputs: Any) -> Any:
        """Run the model.

        Args:
            inputs: of the same form as the example.

        Returns:
            The model's outputs up to rounding, in whatever the model returns.

        Raises:
            InputError: if the inputs have another form or types, or sizes that the model does not take.
        """
        if torch.is_inference_mode_enabled():  # to enter it once more costs more than all else here
            return self._answer(inputs)
        with torch.inference_mode():
            return self._answer(inputs)

    def _answer(self, inputs: Any) -> Any:
        plain = type(inputs) is Tensor and inputs.shape[1:] == self._shape
        if plain and inputs.dtype is self._dtype and inputs.is_cpu:
            samples, known = len(inputs), True
        else:
            samples, known = self._samples(inputs), signature(inputs) == self._signature
        if not samples:
            return call(self.model, inputs)
        share = self._share(samples)
        size = bucket(share)
        if size not in self.table:
            self.tune(share)
        if not known and self.form != "torch" and not self._meets(inputs, size):
            return call(self.model, inputs)
        if not self._apart or samples == 1:
            return self._run(inputs, size)
        assert self._pool is not None
        parts = split(inputs, share)
        return join(list(self._pool.map(self._inference, parts, [size] * len(parts))))

    def tune(self, batch: int) -> None:
        """Measure for batches up to the next power of two of a size; done for each size by itself when needed.

        Args:
            batch: samples.
        """
        with self._lock, torch.inference_mode():
            size = bucket(batch)
            if size in self.table:
                return
            x = repeated(self.example, size) if self._dynamic else self.example
            inputs = self._inputs(x) if self.fused else {}
            rows = []
            for name, layer in self.fused:
                if layer in inputs:
                    rows.append(fastest(name, layer, inputs[layer], size))
                    layer.choices[bucket(len(inputs[layer]))] = rows[-1].choice
            kinds = {row.choice.kind for row in rows}
            tolerance = INT8_ROUNDED if "int8" in kinds else ROUNDED
            if self.form == "torch":
                self.whole[size] = True
            elif found := disagreement(self.model, self._form.run, [("", x)], tolerance):
                self.whole[size] = True
                self._fall_back(f"{found} in batches of {size}")
            else:
                ours, theirs = race(lambda: self._form.run(x), lambda: call(self.model, x))
                self.whole[size] = ours > theirs
            # The sparse kernels leave zero weights out, also where they would meet infinite or undefined inputs.
            self._careful[size] = tolerance if kinds & {"sparse", "int8"} else 0.0
            self.table[size] = rows

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
                kind_, ours, torchs = self.runs_as(row, size), 1e6 * row.seconds, 1e6 * row.torch_seconds
                lines.append(f"{size:5}  {row.name:28}  {kind_:8}  {ours:9.1f}  {torchs:9.1f}")
        return "\n".join(lines)

    def _made(self, example: Any) -> tuple[str, Form]:
        """The first form that agrees with the model, and its name."""
        reason = unsteady(self.model, example)
        for kind_, make in {} if reason else {"graph": as_graph, "layers": as_layers}.items():
            try:
                form = make(self.model, example)
            except Exception as error:  # noqa: BLE001 - whatever a user's forward raises when it is given proxies
                reason = first_line(error)
                continue
            reason = disagreement(self.model, form.run, asked(self.model, example), EXACT)
            if reason is None:
                return kind_, form
        self._fall_back(reason or "")
        return "torch", Form(lambda inputs: call(self.model, inputs), [], False)

    def _fall_back(self, reason: str) -> None:
        self.fallback = reason
        warnings.warn(f"TernaryRuntime runs the whole model in torch: {reason}.", stacklevel=5)

    def _rows_apart(self) -> bool:
        """Whether a batch may be cut; a model whose own code decides by values may be another one for each batch."""
        if not self._form.traced and reads_values(self.model, self.example):
            return False
        return rows_apart(self.model, self.example)

    def _inputs(self, x: Any) -> dict[FusedLayer, Tensor]:
        """What each fused layer is given for a batch; a layer that is called twice is two of them, of one name."""
        inputs: dict[FusedLayer, Tensor] = {}

        def note(layer: FusedLayer, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            inputs[layer] = (args[0] if args else named["input"]).clone()

        hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for _, layer in self.fused]
        self._form.run(x)
        for hook in hooks:
            hook.remove()
        return inputs

    def _allow(self, names: bool | Collection[str], x: Any) -> None:
        """Prepare the layers that may run in eight bits."""
        known = {name for name, _ in self.fused}
        asked = known if names is True else set(names or ())
        if unknown := sorted(asked - known):
            raise InputError(f"int8 must name layers among {', '.join(sorted(known))}, got {', '.join(unknown)}.")
        inputs = self._inputs(x) if asked else {}
        for name, layer in self.fused:
            if name in asked and layer in inputs:
                layer.int8 = int8_layer(layer.layer, layer.spec, inputs[layer])

    def _samples(self, inputs: Any) -> int:
        """How many there are in inputs of the example's form, of whatever sizes."""
        ours, theirs = form_of(self.example), form_of(inputs)
        if ours != theirs:
            wanted = kind(self.example, batch_size(self.example))
            raise InputError(f"the runtime was made for {wanted} on the CPU, got {kind(inputs)}.")
        return batch_size(inputs)

    def _meets(self, inputs: Any, size: int) -> bool:
        """Whether inputs of sizes that the runtime was not made on give what the model gives; asked once for each."""
        key = (signature(inputs), size)
        if key not in self._met:
            try:
                expected = call(self.model, map_tensors(Tensor.clone, inputs))
            except Exception as error:
                wanted = kind(self.example, batch_size(self.example))
                raise InputError(
                    f"the runtime was made for {wanted} on the CPU, got {kind(inputs)}, which the model does not take: "
                    f"{first_line(error)}."
                ) from error
            try:
                ours = self._form.run(map_tensors(Tensor.clone, inputs))
                self._met[key] = difference(ours, expected, self._careful[size] or ROUNDED) is None
            except Exception:  # noqa: BLE001 - as above
                self._met[key] = False
        return self._met[key]

    def _share(self, samples: int) -> int:
        return -(-samples // self._threads) if self._apart else samples

    def _run(self, inputs: Any, size: int) -> Any:
        if self.whole[size] or (self._careful[size] and not finite(inputs)):
            return call(self.model, inputs)
        return self._form.run(inputs)

    def _inference(self, inputs: Any, size: int) -> Any:
        with torch.inference_mode():  # it belongs to the thread
            return self._run(inputs, size)

    def _after_fork(self) -> None:
        """Threads and locks of the parent process do not work in a child."""
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None


_LIVE: weakref.WeakSet[TernaryRuntime] = weakref.WeakSet()


def _renew() -> None:
    """In a child process; torch's own threads do not exist there either, and torch would hang or fail."""
    for runtime in list(_LIVE):
        runtime._after_fork()
    if _LIVE and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def latency(model: nn.Module, example_input: Any, *, turns: int = 30) -> float:
    """Median seconds that a batch takes in a ``TernaryRuntime``, on one thread.

    Args:
        model: in evaluation mode.
        example_input: inputs (batch, ...), as for ``TernaryRuntime``.
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
