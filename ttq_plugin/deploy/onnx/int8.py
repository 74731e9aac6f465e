"""An ONNX graph with eight-bit weights and activations, calibrated on samples, by onnxruntime's own quantiser."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_plugin.deploy.extras import need
from ttq_plugin.deploy.onnx.dense import OnnxModule, feeds
from ttq_plugin.deploy.runtime.spread import split
from ttq_plugin.errors import InputError
from ttq_plugin.support.inputs import arguments, batch_size

if TYPE_CHECKING:
    from onnx import ModelProto

QUANTISED = ("Conv", "Gemm", "MatMul", "MaxPool", "Relu", "LeakyRelu", "Reshape", "Flatten", "Transpose")
"""Layers, and what passes their outputs on unchanged in size; sums, LayerNorm and attention stay float."""


def to_int8(proto: ModelProto, samples: Any, batch: int = 32) -> ModelProto:
    """Quantise with QuantizeLinear / DequantizeLinear pairs: weights a channel, activations by their range, signed.

    Args:
        proto: A graph with float weights.
        samples: Real inputs (n, ...) in the convention of the model, from the training split: their activations' ranges
            become the scales.
        batch: Samples that run at once.

    Returns:
        The graph; its outputs differ from the float graph's by the rounding of eight bits.

    Raises:
        InputError: If a package is missing, no sample is given, or onnxruntime accepts no int8 form of the graph.
    """
    if not batch_size(samples):
        raise InputError("int8 needs real samples to calibrate the ranges of activations, got none.")
    need("onnx", "onnxruntime.quantization")
    # Where onnxruntime moves signed codes through some transposed parts, it then refuses its own graph.
    for signed in (True, False):
        quantised = _quantised(proto, split(samples, batch), signed)
        try:
            OnnxModule(quantised)
        except InputError as error:
            refused = error
        else:
            return quantised
    raise InputError(f"the graph has no int8 form: {refused}")


def _quantised(proto: ModelProto, parts: list[Any], signed: bool) -> ModelProto:
    """With activations in signed or unsigned codes, calibrated on the parts in turn."""
    onnx, quantization, shape_inference = need(
        "onnx", "onnxruntime.quantization", "onnxruntime.quantization.shape_inference"
    )
    names = [given.name for given in proto.graph.input]
    numbers = iter([{n: t.numpy() for n, t in feeds(names, *arguments(part)).items()} for part in parts])

    class Samples(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def get_next(self) -> dict[str, Any] | None:
            return next(numbers, None)

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, result = (Path(folder, f"{step}.onnx") for step in ("plain", "prepared", "result"))
        onnx.save(proto, plain)
        root, level = logging.getLogger(), logging.getLogger().level
        root.setLevel(logging.ERROR)
        try:
            shape_inference.quant_pre_process(plain, prepared, skip_symbolic_shape=True)
            quantization.quantize_static(
                prepared,
                result,
                Samples(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED),
                nodes_to_exclude=_products(onnx.load(prepared)),
                per_channel=True,
                activation_type=quantization.QuantType.QInt8 if signed else quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        finally:
            root.setLevel(level)
        quantised: ModelProto = onnx.load(result)
    used = {node.domain for node in quantised.graph.node}
    kept = [entry for entry in quantised.opset_import if entry.domain in used]
    del quantised.opset_import[:]
    quantised.opset_import.extend(kept)
    return quantised


def _products(proto: ModelProto) -> list[str]:
    """Names of the matrix products without a weight, such as those of attention and of rotary positions."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    return [n.name for n in proto.graph.node if n.op_type in {"MatMul", "Gemm"} and weights.isdisjoint(n.input)]
