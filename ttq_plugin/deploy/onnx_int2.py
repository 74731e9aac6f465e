"""Ternary weights of an ONNX graph as two-bit codes, exactly.

DequantizeLinear has one scale, and -W_n, 0, W_p need two. The same codes q in {-1, 0, 1} are therefore dequantised
twice, and w = max(q W_p, 0) + min(q W_n, 0), which rounds nothing. Where W_p >= W_n that is max(q W_p, q W_n), where
W_p <= W_n it is their minimum, and with one scale DequantizeLinear alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ttq_plugin.deploy.extras import need
from ttq_plugin.measures.ternary import codes_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto


@dataclass(frozen=True)
class Ternary:
    """One weight of the graph.

    Attributes:
        name: of its initialiser.
        codes: int8, -1, 0 or 1, the weight's shape.
        positive: W_p, float32: a scalar, or one an output channel.
        negative: W_n, the same.
        axis: the dimension of output channels.
    """

    name: str
    codes: NDArray[np.int8]
    positive: NDArray[np.float32]
    negative: NDArray[np.float32]
    axis: int

    @property
    def bytes(self) -> int:
        """Of codes and scales."""
        return -(-self.codes.size // 4) + 4 * (self.positive.size + self.negative.size)


def to_int2(proto: ModelProto) -> ModelProto:
    """A copy in which every ternary weight of a Conv, Gemm or MatMul is two-bit codes: bit for bit the same weights.

    Args:
        proto: a graph with float weights, of opset 25 or newer.

    Returns:
        The graph. A weight that is not ternary, or too small for codes to be smaller, stays.
    """
    [onnx] = need("onnx")
    packed = onnx.ModelProto()
    packed.CopyFrom(proto)
    graph = packed.graph
    floats = {tensor.name: tensor for tensor in graph.initializer}
    unpacking: list[NodeProto] = []
    for weight in _ternary_weights(proto):
        graph.initializer.remove(floats[weight.name])
        tensors, nodes = _unpacked(weight)
        graph.initializer.extend(tensors)
        unpacking += nodes
    nodes = [*unpacking, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(packed, full_check=True)
    return packed


def _ternary_weights(proto: ModelProto) -> Iterator[Ternary]:
    """Each once, in the graph's order."""
    [numpy_helper] = need("onnx.numpy_helper")
    floats = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.data_type == tensor.FLOAT}
    for node in proto.graph.node:
        if (axis := _output_axis(node)) is None or node.input[1] not in floats:
            continue
        values = numpy_helper.to_array(floats.pop(node.input[1]))
        found = codes_of(torch.from_numpy(values.copy()), axis)
        if found is None:
            continue
        rest = None
        if found.smallest_group < values.size:
            rest = tuple(dim for dim in range(values.ndim) if dim != axis)
        weight = Ternary(
            node.input[1],
            found.values.numpy(),
            np.maximum(values.max(rest), 0),
            np.maximum((-values).max(rest), 0),
            axis,
        )
        if weight.bytes < values.nbytes:
            yield weight


def _output_axis(node: NodeProto) -> int | None:
    """The dimension of output channels in the node's weight; None where it has none."""
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return {"Conv": 0, "MatMul": 1}.get(node.op_type)


def _unpacked(weight: Ternary) -> tuple[list[TensorProto], list[NodeProto]]:
    """Codes and scales, and the nodes that make the weight of them under its old name."""
    helper, numpy_helper, onnx = need("onnx.helper", "onnx.numpy_helper", "onnx")
    codes = onnx.TensorProto(name=f"{weight.name}.codes", data_type=onnx.TensorProto.INT2, dims=weight.codes.shape)
    codes.raw_data = two_bits(weight.codes)
    channels: dict[str, Any] = {"axis": weight.axis} if weight.positive.ndim else {}
    tensors = [codes]

    def dequantised(scale: NDArray[np.float32], suffix: str, result: str) -> NodeProto:
        tensors.append(numpy_helper.from_array(scale, f"{weight.name}.{suffix}"))
        return helper.make_node("DequantizeLinear", [codes.name, tensors[-1].name], [result], **channels)

    if np.array_equal(weight.positive, weight.negative):
        return tensors, [dequantised(weight.positive, "scale", weight.name)]
    both = [f"{weight.name}.{sign}" for sign in ("positives", "negatives")]
    nodes = [
        dequantised(weight.positive, "w_p", both[0]),
        dequantised(weight.negative, "w_n", both[1]),
    ]
    if (weight.positive >= weight.negative).all():
        return tensors, [*nodes, helper.make_node("Max", both, [weight.name])]
    if (weight.positive <= weight.negative).all():
        return tensors, [*nodes, helper.make_node("Min", both, [weight.name])]
    tensors.append(numpy_helper.from_array(np.float32(0), f"{weight.name}.zero"))
    kept = [f"{name}.kept" for name in both]
    nodes += [
        helper.make_node(kind, [name, tensors[-1].name], [result])
        for kind, name, result in zip(("Max", "Min"), both, kept, strict=True)
    ]
    return tensors, [*nodes, helper.make_node("Add", kept, [weight.name])]


def two_bits(codes: NDArray[np.int8]) -> bytes:
    """Codes as ONNX stores INT2: two's complement, four a byte, the first in the lowest bits."""
    flat = codes.reshape(-1).astype(np.uint8) & 3
    quads = np.pad(flat, (0, -flat.size % 4)).reshape(-1, 4)
    packed: bytes = (quads << np.array([0, 2, 4, 6], np.uint8)).sum(1, dtype=np.uint8).tobytes()
    return packed
