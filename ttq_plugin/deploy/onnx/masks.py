"""Masks of attention in an ONNX graph, in the shape that onnxruntime takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ttq_plugin.deploy.extras import need

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

MASK = 3
"""The place of the mask among Attention's inputs."""


def spread_masks(proto: ModelProto) -> None:
    """Spread masks that are the same for every query, such as one of padding, over the queries, in place.

    ONNX lets a mask broadcast, and onnxruntime wants its last two dimensions as they are.

    Args:
        proto: A graph with the shapes of its values.
    """
    helper, numpy_helper = need("onnx.helper", "onnx.numpy_helper")
    shapes = _shapes(proto)
    nodes: list[NodeProto] = []
    for node in proto.graph.node:
        mask = node.input[MASK] if node.op_type == "Attention" and len(node.input) > MASK else ""
        queries = shapes.get(node.input[0], [])[-2:-1] if mask else []
        if queries and queries != [1] and shapes.get(mask, [])[-2:-1] == [1]:
            spread, wanted = f"{mask}.of_{node.name}", f"{mask}.shape_of_{node.name}"
            values = np.array([*queries, 1], dtype=np.int64)
            proto.graph.initializer.append(numpy_helper.from_array(values, wanted))
            nodes.append(helper.make_node("Expand", [mask, wanted], [spread], f"{node.name}.mask"))
            node.input[MASK] = spread
        nodes.append(node)
    if len(nodes) > len(proto.graph.node):
        kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del proto.graph.node[:]
        proto.graph.node.extend(kept)


def _shapes(proto: ModelProto) -> dict[str, list[int]]:
    """The sizes of each value; 0 for one that is not fixed."""
    graph = proto.graph
    found = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info):
        if value.type.tensor_type.HasField("shape"):
            found[value.name] = [size.dim_value for size in value.type.tensor_type.shape.dim]
    return found
