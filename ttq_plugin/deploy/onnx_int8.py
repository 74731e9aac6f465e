"""An ONNX graph with eight-bit weights and activations, calibrated on samples, by onnxruntime's own quantiser."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ttq_plugin.deploy.extras import need
from ttq_plugin.errors import InputError

if TYPE_CHECKING:
    from onnx import ModelProto

QUANTISED = ("Conv", "Gemm", "MatMul", "MaxPool", "Relu", "LeakyRelu", "Reshape", "Flatten", "Transpose")
"""Layers, and what passes their outputs on unchanged in size; sums, LayerNorm and attention stay float."""


def to_int8(proto: ModelProto, samples: Tensor, batch: int = 32) -> ModelProto:
    """Quantise with QuantizeLinear / DequantizeLinear pairs: weights a channel, activations by their range, signed.

    Args:
        proto: a graph with float weights.
        samples: real inputs (n, ...), from the training split: their activations' ranges become the scales.
        batch: samples that run at once.

    Returns:
        The graph; its outputs differ from the float graph's by the rounding of eight bits.

    Raises:
        InputError: if a package is missing, or no sample is given.
    """
    onnx, quantization, shape_inference = need(
        "onnx", "onnxruntime.quantization", "onnxruntime.quantization.shape_inference"
    )
    if not len(samples):
        raise InputError("int8 needs real samples to calibrate the activations' ranges with, got none.")
    name = proto.graph.input[0].name
    feeds = iter([{name: part.numpy()} for part in samples.split(batch)])

    class Samples(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def get_next(self) -> dict[str, Any] | None:
            return next(feeds, None)

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
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
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
