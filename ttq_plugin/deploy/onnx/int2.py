"""Ternary weights of an ONNX graph as two-bit codes, exactly.

DequantizeLinear has one scale, and -W_n, 0, W_p need two. The same codes q in {-1, 0, 1} are therefore dequantised
twice, and w = max(q W_p, 0) + min(q W_n, 0), which rounds nothing. Where W_p >= W_n that is max(q W_p, q W_n), where
W_p <= W_n it is their minimum, and with one scale DequantizeLinear alone.
"""

from __future__ import annotations

import warnings
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
        name: Name of its initialiser.
        codes: int8, -1, 0 or 1, the weight's shape.
        positive: W_p, float32 or float16: a scalar, or one an output channel.
        negative: W_n, the same.
        axis: The dimension of output channels.
    """

    name: str
    codes: NDArray[np.int8]
    positive: NDArray[Any]
    negative: NDArray[Any]
    axis: int

    @property
    def bytes(self) -> int:
        """Number of bytes of codes and scales."""
        return -(-self.codes.size // 4) + self.positive.nbytes + self.negative.nbytes


def to_int2(proto: ModelProto) -> ModelProto:
    """A copy in which every ternary tensor is two-bit codes: bit for bit the same weights.

    That holds for whatever reads the tensor: convolutions, transposed ones, linear layers, recurrent ones, embeddings.

    Args:
        proto: A graph with float weights, of opset 25 or newer.

    Returns:
        The graph. A tensor that is not ternary, or too small for codes to be smaller, stays; so does one whose scales
        vary along two dimensions, which ONNX cannot hold, or whose numbers are neither float32 nor float16; a warning
        names it.
    """
    [onnx] = need("onnx")
    packed: ModelProto = onnx.ModelProto()
    packed.CopyFrom(proto)
    graph = packed.graph
    floats = {tensor.name: tensor for tensor in graph.initializer}
    unpacking: list[NodeProto] = []
    found, left = _ternary_weights(proto)
    for weight in found:
        graph.initializer.remove(floats[weight.name])
        tensors, nodes = _unpacked(weight)
        graph.initializer.extend(tensors)
        unpacking += nodes
    nodes = [*unpacking, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(packed, full_check=True)
    for reason in dict.fromkeys(left.values()):
        named = ", ".join(name for name, why in left.items() if why == reason)
        warnings.warn(f"{named} stays float in the ONNX graph: {reason}.", stacklevel=2)
    return packed


def _ternary_weights(proto: ModelProto) -> tuple[list[Ternary], dict[str, str]]:
    """Each once, in the order of their use; and the names of those that stay, with the reason."""
    [numpy_helper] = need("onnx.numpy_helper")
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer if len(tensor.dims) >= 2}
    found: list[Ternary] = []
    left: dict[str, str] = {}
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            if name not in tensors:
                continue
            tensor = tensors.pop(name)
            if tensor.data_type not in {tensor.FLOAT, tensor.FLOAT16, tensor.DOUBLE, tensor.BFLOAT16}:
                continue
            values = numpy_helper.to_array(tensor)
            wide = tensor.data_type not in {tensor.FLOAT, tensor.FLOAT16}
            weight = _ternary(name, values.astype(np.float32) if wide else values, _output_axis(node, place))
            if weight is None and not wide and _rows_are_ternary(values):
                left[name] = "its ternary scales vary along two dimensions, and ONNX dequantises along one"
            elif weight is not None and weight.bytes < values.nbytes:
                if wide:
                    left[name] = f"it holds {values.dtype.name}, and two-bit codes stand for float32 or float16"
                else:
                    found.append(weight)
    return found, left


def _ternary(name: str, values: NDArray[Any], axis: int) -> Ternary | None:
    """The codes with one pair of scales, or one along some dimension, the likeliest one first."""
    for dim in dict.fromkeys((axis % values.ndim, *range(values.ndim))):
        codes = codes_of(torch.from_numpy(values.copy()), dim)
        if codes is None:
            continue
        rest = None
        if codes.smallest_group < values.size:
            rest = tuple(each for each in range(values.ndim) if each != dim)
        positive, negative = np.maximum(values.max(rest), 0), np.maximum((-values).max(rest), 0)
        return Ternary(name, codes.values.numpy(), positive, negative, dim)
    return None


def _rows_are_ternary(values: NDArray[Any]) -> bool:
    """Whether each row along the last dimension is, with zeros among them, and long enough for that to mean much."""
    rows = torch.from_numpy(values.reshape(-1, values.shape[-1]).copy())
    return values.shape[-1] >= 8 and bool((rows == 0).any()) and codes_of(rows) is not None


def _output_axis(node: NodeProto, place: int) -> int:
    """The dimension of output channels in a node's weight, if it has one that is usual."""
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": -1 if place else 0}.get(node.op_type, 0)


def _unpacked(weight: Ternary) -> tuple[list[TensorProto], list[NodeProto]]:
    """Codes and scales, and the nodes that make the weight of them under its old name."""
    helper, numpy_helper, onnx = need("onnx.helper", "onnx.numpy_helper", "onnx")
    codes = onnx.TensorProto(name=f"{weight.name}.codes", data_type=onnx.TensorProto.INT2, dims=weight.codes.shape)
    codes.raw_data = two_bits(weight.codes)
    channels: dict[str, Any] = {"axis": weight.axis} if weight.positive.ndim else {}
    tensors = [codes]

    def dequantised(scale: NDArray[Any], suffix: str, result: str) -> NodeProto:
        tensors.append(numpy_helper.from_array(scale, f"{weight.name}.{suffix}"))
        node: NodeProto = helper.make_node("DequantizeLinear", [codes.name, tensors[-1].name], [result], **channels)
        return node

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
    tensors.append(numpy_helper.from_array(weight.positive.dtype.type(0), f"{weight.name}.zero"))
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
