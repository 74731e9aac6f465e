"""Runs a compressed model as fast as this machine allows, each layer with the implementation measured fastest."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.core.model.held import check_values
from ttq_plugin.deploy.runtime import forks
from ttq_plugin.deploy.runtime.agreement import (
    ROUNDED,
    difference,
    disagreement,
    takes,
)
from ttq_plugin.deploy.runtime.checks import Expected, check, check_options, finite, kept_buffers, signature
from ttq_plugin.deploy.runtime.engine import engine_of, quick
from ttq_plugin.deploy.runtime.forms import allow_int8, form_of_model
from ttq_plugin.deploy.runtime.fused import bucket
from ttq_plugin.deploy.runtime.integers import IntegerForm, integer_form, integer_module
from ttq_plugin.deploy.runtime.spread import reads_values, rows_apart, split
from ttq_plugin.deploy.runtime.tuning import LayerChoice, fastest, race
from ttq_plugin.errors import first_line
from ttq_plugin.support.arguments import check_types
from ttq_plugin.support.inputs import batch_size, call, join, map_tensors, repeated, tensors

KEPT = 4
"""Samples of the example that are kept to measure on."""

REMEMBERED = 256
"""Sizes of inputs for which it is kept what runs them."""

INT8_ROUNDED = 0.5
"""As ``ROUNDED``, where some layers run in eight bits; each of them was compared individually."""


class TernaryRuntime:
    """A model for fast inference on the CPU.

    Its outputs are the model's up to the order of sums (1e-5 relative), except for layers in int8. With ``integer``
    they are exactly those of the integer network that ``integerize`` makes of the model.

    Convolutions and linear layers are fused with the BatchNorm, activation and max-pooling after them. For each, torch,
    a dense kernel and (if its weight is ternary) a sparse one are timed on this machine; the fastest is kept. The
    resulting model is timed against torch and, if installed, onnxruntime, each running the whole model; the fastest of
    them is used. Each power of two of the batch size is measured once, when first seen. Layers that may run in eight
    bits do where that is faster still.

    When it is created, the runtime compares itself with the model on the example, on other values and on other batch
    sizes; inputs of another length are compared when they first come. Where the traced model disagrees, the model's own
    code runs with only its layers replaced; where that disagrees too, torch runs the model, and ``fallback`` and a
    warning say why.

    Args:
        model: The model, in evaluation mode; not changed, but its parameters are shared, so do not train it afterwards.
        example_input: Inputs on the CPU, (batch, ...): a tuple is the positional arguments, a dict the keyword
            arguments, anything else the only argument. Floating-point tensors are float32. Later inputs are of the same
            form; their sizes may differ if the model allows it.
        threads: Number of threads over which a batch is spread, if each sample's outputs depend on this sample only;
            torch's own threads are not changed, except in a forked process, where torch has only one.
        int8: Names of the layers that may run with weights and inputs of eight bits, or True for all. Their inputs'
            ranges are those of the example, so pass a few hundred real samples; a layer whose outputs would be off by
            more than 5 % is left out.
        integer: Whether to run the whole model in integer arithmetic: int8 activations, ternary weights as sums. A
            module made by ``integerize`` is run as it is; any other model is integerized on ``batches`` first.
        batches: Calibration inputs, as for ``integerize``: a few hundred training samples. Without them the example is
            used, which should then be as large.
        onnxruntime: Whether onnxruntime may run the model. It holds a second copy of the weights, and takes inputs of
            the example's sizes with any batch size; other sizes run without it.

    Attributes:
        form: ``graph`` (traced and fused), ``layers`` (the model's own code, layers replaced), ``integers`` or
            ``torch``.
        fallback: Why torch runs the whole model, or None.
        table: How each layer runs, for each power of two of the batch sizes seen so far.
        runs: `ours`, `torch` or `onnxruntime`: what runs inputs of the example's sizes, for each such batch size.

    Raises:
        InputError: If the model is in training mode, does not take the example, or has no such layer.

    Examples:
        >>> import torch
        >>> from ttq_plugin import TernaryRuntime
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU()).eval()
        >>> x = torch.randn(4, 16)
        >>> runtime = TernaryRuntime(model, x, onnxruntime=False)
        >>> torch.allclose(runtime(x), model(x), atol=1e-5)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Any,
        *,
        threads: int = 1,
        int8: bool | Collection[str] = False,
        integer: bool = False,
        batches: Any = None,
        onnxruntime: bool = True,
    ) -> None:
        check_types(TernaryRuntime.__init__, locals())
        check_values(model)
        check_options(threads, int8, integer=integer, batches=batches)
        if integer:
            model = integer_module(model, example_input, batches)
        self.model, self._threads = model, threads
        self.table: dict[int, list[LayerChoice]] = {}
        self.whole: dict[int, bool] = {}
        self.runs: dict[int, str] = {}
        self.fallback: str | None = None
        self._exact = integer
        self._careful: dict[int, float] = {}
        self._met: dict[Any, bool] = {}
        self._ready: dict[Any, Callable[[Any], Any]] = {}
        self.after_fork()
        with torch.inference_mode(), kept_buffers(model):
            check(model, example_input)
            self._expected = Expected(example_input)
            self._dynamic = takes(model, example_input, 1) and takes(model, example_input, 3)
            samples = batch_size(example_input)
            self.example = repeated(example_input, min(KEPT, samples) if self._dynamic else samples)
            make = integer_form if integer else form_of_model
            self.form, self._form, reason = make(model, example_input)
            if reason is not None:
                self._fall_back(reason)
            self.fused = self._form.fused
            self._apart = self._dynamic and threads > 1 and self._rows_apart()
            allow_int8(self._form, int8, example_input)
            engine = onnxruntime and not integer and self.form != "torch"
            self._engine = engine_of(model, self.example) if engine else None
            self.tune(self._share(samples))
        forks.follow(self)

    def __call__(self, inputs: Any) -> Any:
        """Run the model.

        Args:
            inputs: The inputs of the same form as the example.

        Returns:
            The model's outputs up to rounding, in whatever the model returns.

        Raises:
            InputError: If the inputs have another form or types, or sizes that the model does not take.
        """
        way = self._ready.get(quick(inputs), self._answer)
        if way is self._engine or torch.is_inference_mode_enabled():  # entering it takes longer than all else
            return way(inputs)
        with torch.inference_mode():
            return way(inputs)

    def _answer(self, inputs: Any) -> Any:
        samples, known = self._expected.meet(inputs)
        if not samples:
            return call(self.model, inputs)
        share = self._share(samples)
        size = bucket(share)
        if size not in self.table:
            self.tune(share)
        if not known and self.form != "torch" and not self._meets(inputs, size):
            return call(self.model, inputs)
        fits = known and (self._dynamic or samples == batch_size(self.example))
        runs = self.runs[size] if fits else self._without_engine(size)
        if not self._apart or samples == 1:
            self._remember(inputs, size, runs)
            return self._run(inputs, size, runs)
        assert self._pool is not None
        parts = split(inputs, share)
        return join(list(self._pool.map(self._inference, parts, [size] * len(parts), [runs] * len(parts))))

    def tune(self, batch: int) -> None:
        """Measure for batches up to the next power of two of a size; happens automatically when needed.

        Args:
            batch: Samples.
        """
        with self._lock, torch.inference_mode():
            size = bucket(batch)
            if size in self.table:
                return
            x = repeated(self.example, size) if self._dynamic else self.example
            inputs = self._form.inputs(x) if self.fused else {}
            rows = self._form.choices(size) if isinstance(self._form, IntegerForm) else []
            for name, layer in self.fused:
                if layer in inputs:
                    rows.append(fastest(name, layer, inputs[layer], size))
                    layer.choices[bucket(len(inputs[layer]))] = rows[-1].choice
            kinds = {row.choice.kind for row in rows}
            tolerance = 0.0 if self._exact else INT8_ROUNDED if "int8" in kinds else ROUNDED
            wrong = None
            if self.form != "torch" and (wrong := self._wrong(x, tolerance)):
                self._fall_back(f"{wrong} in batches of {size}")
            ways: dict[str, Callable[[], Any]] = {}
            if not self._exact or self.form == "torch" or wrong:  # on integers torch is far slower
                ways["torch"] = lambda: call(self.model, x)
            if self.form != "torch" and not wrong:
                ways["ours"] = lambda: self._form.run(x)
            if (engine := self._engine) and not disagreement(self.model, engine, [("", x)], ROUNDED):
                ways["onnxruntime"] = lambda: engine(x)
            seconds = race(ways)
            self.whole[size] = seconds.get("torch", float("inf")) <= seconds.get("ours", float("inf"))
            self.runs[size] = min(seconds, key=seconds.__getitem__)
            # The sparse kernels leave zero weights out, also where they would meet infinite or undefined inputs.
            self._careful[size] = tolerance if kinds & {"sparse", "int8"} else 0.0
            self.table[size] = rows

    def _wrong(self, x: Any, tolerance: float) -> str | None:
        """How our form of the model disagrees on the example, or on the example again and again."""
        if not self._exact:
            return disagreement(self.model, self._form.run, [("", x)], tolerance)
        expected = call(self.model, self.example)
        return difference(self._form.run(x), repeated(expected, batch_size(x)), tolerance)

    def size(self, batch: int) -> int:
        """The key of ``table`` that holds for a batch, which is spread over the threads."""
        return bucket(self._share(batch))

    def runs_as(self, row: LayerChoice, size: int) -> str:
        """The kind of choice by which a row of ``table[size]`` runs, or what runs the whole model."""
        return row.choice.kind if self.runs[size] == "ours" else self.runs[size]

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

    def _fall_back(self, reason: str) -> None:
        self.fallback = reason
        warnings.warn(f"TernaryRuntime runs the whole model in torch: {reason}.", stacklevel=4)

    def _rows_apart(self) -> bool:
        """Whether a batch may be cut; a model whose own code decides by values may be another one for each batch."""
        if not self._form.traced and reads_values(self.model, self.example):
            return False
        return rows_apart(self.model, self.example)

    def _meets(self, inputs: Any, size: int) -> bool:
        """Whether inputs of sizes that the runtime was not made on give what the model gives; asked once for each."""
        key = (signature(inputs), size)
        if key not in self._met:
            try:
                expected = call(self.model, map_tensors(Tensor.clone, inputs))
            except Exception as error:
                raise self._expected.refusal(inputs, f", which the model does not take: {first_line(error)}") from error
            try:
                ours = self._form.run(map_tensors(Tensor.clone, inputs))
                self._met[key] = difference(ours, expected, self._careful[size] or ROUNDED) is None
            except Exception:  # noqa: BLE001 - as above
                self._met[key] = False
        return self._met[key]

    def _share(self, samples: int) -> int:
        return -(-samples // self._threads) if self._apart else samples

    def _without_engine(self, size: int) -> str:
        return "torch" if self.whole[size] else "ours"

    def _watches(self, size: int, runs: str) -> bool:
        """Whether undefined and infinite inputs must go to torch."""
        if runs == "onnxruntime":
            assert self._engine is not None
            return self._engine.careful
        return runs == "ours" and bool(self._careful[size])

    def _remember(self, inputs: Any, size: int, runs: str) -> None:
        """What runs inputs of these very sizes, so that it is found at once when they come again."""
        if any(tensor.requires_grad for tensor in tensors(inputs)):
            return
        if len(self._ready) >= REMEMBERED:
            self._ready.clear()
        ways: dict[str, Any] = {"onnxruntime": self._engine, "ours": self._form.run}
        ways["torch"] = self.model if type(inputs) is Tensor else partial(call, self.model)
        way = ways[runs]
        self._ready[quick(inputs)] = partial(self._watched, way) if self._watches(size, runs) else way

    def _watched(self, way: Callable[[Any], Any], inputs: Any) -> Any:
        return way(inputs) if finite(inputs) else call(self.model, inputs)

    def _run(self, inputs: Any, size: int, runs: str) -> Any:
        if runs == "torch" or (self._watches(size, runs) and not finite(inputs)):
            return call(self.model, inputs)
        if runs == "ours":
            return self._form.run(inputs)
        assert self._engine is not None
        return self._engine(map_tensors(Tensor.detach, inputs))

    def _inference(self, inputs: Any, size: int, runs: str) -> Any:
        with torch.inference_mode():  # it belongs to the thread
            return self._run(inputs, size, runs)

    def after_fork(self) -> None:
        """Create threads and locks again, because those of the parent process do not work in a child."""
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None
