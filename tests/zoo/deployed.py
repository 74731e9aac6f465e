"""Columns of the table about deployment: the runtime, graphs and C code give what torch gives."""

from __future__ import annotations

import tempfile
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.deploy.c99.test_c99 import SANITIZED
from tests.deploy.c99.test_forms import compiled, expected
from tests.deploy.integer.test_c_int8 import differing
from tests.zoo import networks as zoo
from tests.zoo.columns import compressed
from ttq_plugin import TernaryRuntime, integerize
from ttq_plugin.core.model.matrices import matrices
from ttq_plugin.deploy.onnx.dense import OnnxModule, to_onnx
from ttq_plugin.deploy.onnx.int2 import to_int2
from ttq_plugin.deploy.onnx.int8 import to_int8
from ttq_plugin.deploy.runtime.agreement import difference, probes
from ttq_plugin.support.inputs import call, tensors

TWO_BITS = 26
"""ONNX's number for the two-bit type."""

WITHOUT_ENGINE = {"flow"}
"""Networks whose code decides by values, which onnxruntime does not run."""


def agrees(session: nn.Module, model: nn.Module, x: Any, tolerance: float = 1e-5) -> None:
    """Tensor by tensor: a graph has no nestings."""
    with torch.inference_mode():
        pairs = zip(tensors(call(session, x)), tensors(call(model, x)), strict=True)
        found = [difference(ours, theirs, tolerance) for ours, theirs in pairs]
    assert not any(found), found


def runtime(name: str, full: bool = False) -> None:
    """The model's outputs whatever runs it, on batches that it was made on and others, and on unlike values."""
    model = compressed(name, full)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="TernaryRuntime")
        made = TernaryRuntime(model, zoo.samples(name, 2, full))
    assert made.fallback is None and made.form in {"graph", "layers"} and made.fused
    assert (made._engine is None) == (name in WITHOUT_ENGINE)
    for runs in ("ours", "torch", "onnxruntime")[: 2 if name in WITHOUT_ENGINE else 3]:
        for batch in (2, 1, 3):
            _compare(made, model, zoo.samples(name, batch, full))
            made.runs, made._ready = dict.fromkeys(made.runs, runs), {}  # also where another was faster
        for _, x in probes(zoo.samples(name, 2, full)):
            _compare(made, model, x)


def _compare(made: TernaryRuntime, model: nn.Module, x: Any) -> None:
    with torch.inference_mode():
        found = difference(made(x), call(model, x), 1e-5)
    assert found is None, found


@lru_cache(maxsize=2)
def graph(name: str, full: bool) -> Any:
    return to_onnx(compressed(name, full), zoo.samples(name, 2, full))


def onnx(name: str, full: bool = False) -> None:
    """The float graph, for any batch, with the names of inputs and outputs."""
    session = OnnxModule(graph(name, full))
    assert (session.names, session.results) == zoo.TENSORS.get(name, (["x"], ["logits"]))
    for batch in (1, 2, 5):
        agrees(session, compressed(name, full), zoo.samples(name, batch, full))


def onnx_int2(name: str, full: bool = False) -> None:
    """Every ternary matrix in two bits, without a warning, and the same outputs."""
    model = compressed(name, full)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        proto = to_int2(graph(name, full))
    coded = {tensor.name.removesuffix(".codes") for tensor in proto.graph.initializer if tensor.data_type == TWO_BITS}
    assert len(coded - zoo.CONSTANTS) == len(matrices(model)) - 1
    for batch in (1, 2, 5):
        agrees(OnnxModule(proto), model, zoo.samples(name, batch, full))


def onnx_int8(name: str, full: bool = False) -> None:
    """It loads, and is not far off."""
    torch.manual_seed(3)
    x = zoo.samples(name, 4, full)
    session = OnnxModule(to_int8(graph(name, full), x))
    assert (session.names, session.results) == zoo.TENSORS.get(name, (["x"], ["logits"]))
    agrees(session, compressed(name, full), x, 0.5)


def c99(name: str, full: bool = False) -> None:
    """Compiled with every warning an error, under sanitizers; several tensors lie one behind the other."""
    model, x = compressed(name, full), zoo.samples(name, 2, full)
    with tempfile.TemporaryDirectory() as folder:
        found, written = compiled(model, x, Path(folder), ["-O2"] if full else SANITIZED)
    truth = expected(model, x)
    assert float((found - truth).abs().max()) <= 1e-5 * float(truth.abs().max())
    if full:
        assert name not in zoo.MEMORY or written.static_bytes <= zoo.MEMORY[name]
    assert written.constant_bytes < sum(4 * p.numel() for p in model.parameters()) * 1.3


FAR = {"vit-tiny-hf": 0.2, "vit-torch": 0.2}
"""Networks whose integers may be further off: untrained class tokens are a twentieth of the patches on their grid."""


def c_int8(name: str, full: bool = False) -> None:
    """The compiled code gives the integer module's integers, and the module's outputs are close to the network's."""
    torch.manual_seed(2)
    model, x = compressed(name, full), zoo.samples(name, 16, full)
    integer = integerize(model, x)
    with tempfile.TemporaryDirectory() as folder:
        assert differing(integer, integer.quantised(zoo.samples(name, 2, full)), Path(folder), ["-O1"]) == 0
    for ours, theirs in zip(tensors(call(integer, x)), tensors(call(model, x)), strict=True):
        assert float((ours - theirs).norm()) <= FAR.get(name, 0.05) * float(theirs.norm())
