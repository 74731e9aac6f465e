"""Convolutions and linear layers of a graph as steps, with what follows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from ttq_plugin.deploy.program.builder import Builder
from ttq_plugin.deploy.program.folding import STATISTICS
from ttq_plugin.deploy.program.fusion import DIMS, followers
from ttq_plugin.deploy.program.geometry import geometry, pair
from ttq_plugin.deploy.program.operators import kind_of, read
from ttq_plugin.deploy.program.steps import Step, View

LAYERS = ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear", "addmm", "matmul", "mm", "bmm")
PRODUCTS = {"matmul": "other", "mm": "mat2", "bmm": "mat2"}
"""Products of two tensors: the argument that is the second."""


def layer(build: Builder, node: fx.Node, given: dict[str, Any]) -> None:
    """A layer and the BatchNorm, activation and pooling that nothing else sees before.

    Args:
        build: What the step is added to.
        node: The layer.
        given: Its arguments.
    """
    kind = kind_of(node)
    if kind in PRODUCTS and not _is_matrix(build.value(given[PRODUCTS[kind]])):
        build.values[node] = _product(build, node, given["self"], given[PRODUCTS[kind]])
        return
    more: dict[str, Any] = {}
    linear = "stride" not in given
    if linear:
        source = _linear(build, node, given, more)
    elif kind.startswith("conv_transpose"):
        source = _transposed(build, node, given, more)
    else:
        source = build.value(given["input"])
        more |= {"weight": build.name_of(given["weight"]), "bias": build.name_of(given["bias"])}
        more |= geometry(node, given, source.meta)
        beyond = build.padding.get(given["input"], (0, 0))
        more["padding"] = (more["padding"][0] + beyond[0], more["padding"][1] + beyond[1])
    nodes, tail = followers(node, DIMS.get(kind, 0), read)
    build.absorbed |= set(nodes[1:])
    last = nodes[-1]
    output = build.new(last)
    pool = None if tail.pool is None else dict(zip(("size", "stride"), tail.pool, strict=True))
    more |= {"norm": tail.norm and norm_of(build, tail.norm.given), "slope": tail.slope, "pool": pool}
    build.steps.append(Step("layer", output, [source], more))
    build.values[last] = output


def norm_of(build: Builder, given: Mapping[str, Any]) -> dict[str, Any]:
    """A BatchNorm by the names of its constants."""
    return {**{part: build.name_of(given[part]) for part in STATISTICS}, "eps": given["eps"]}


def _linear(build: Builder, node: fx.Node, given: dict[str, Any], more: dict[str, Any]) -> View:
    """A linear layer as a 1x1 convolution whose image is the rows it is applied to, one below the other."""
    if kind_of(node) == "linear":
        source, weight, bias = build.value(given["input"]), build.name_of(given["weight"]), given["bias"]
    else:  # x W instead of x W^T
        matrix = given["mat2"] if "mat2" in given else given["other"]
        source, bias = build.value(given["mat1"] if "mat1" in given else given["self"]), None
        weight = _transpose(build, matrix)
        if "mat1" in given:
            bias = given["self"]
            if given["beta"] != 1 or given["alpha"] != 1:
                raise build.missing(node, "addmm with beta or alpha")
    more |= {"weight": weight, "bias": build.name_of(bias)}
    shape = source.meta.shape
    if 0 in shape:
        raise build.missing(node, "a layer without inputs")
    rows = source.meta.numel() // shape[-1]
    try:
        flat = source.meta.view(rows, shape[-1])
    except RuntimeError:
        source = build.copied(source)
        flat = source.meta.view(rows, shape[-1])
    more |= {
        **{"groups": 1, "channels": shape[-1], "rows": rows, "columns": 1},
        **{"steps": (flat.stride(1), flat.stride(0), 1), "kernel": (1, 1), "stride": (1, 1)},
        **{"padding": (0, 0), "dilation": (1, 1), "transposed_output": True, "out": (rows, 1)},
    }
    return View(source.buffer, flat)


def _transpose(build: Builder, matrix: fx.Node) -> str:
    view = build.value(matrix)
    if view.buffer.constant is None:
        raise build.missing(matrix, "a computed matrix as a weight")
    name, meta = f"{view.buffer.constant} transposed", view.meta
    if meta.numel() < view.buffer.size or not view.contiguous:  # parts of one matrix are different ones
        name = f"{name}, {tuple(meta.shape)} by {meta.stride()} from {meta.storage_offset()}"
    if name not in build.tensors:
        values = build.actual(view)
        build.constant(name, values.t() if values.dim() == 2 else values.unsqueeze(0))
    return name


def _transposed(build: Builder, node: fx.Node, given: dict[str, Any], more: dict[str, Any]) -> View:
    """A transposed convolution as one over the input with zeros between its values and around them."""
    name = build.name_of(given["weight"])
    assert name is not None
    weight, groups = build.tensors[name], given["groups"]
    spatial = tuple(range(2, weight.dim()))
    turned = weight.flip(spatial).unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    source = build.value(given["input"])
    dims = weight.dim() - 2
    stride, dilation = (pair(given[word], dims) for word in ("stride", "dilation"))
    padding, extra = (pair(given[word], dims, 0) for word in ("padding", "output_padding"))
    image = source.meta.unsqueeze(2) if dims == 1 else source.meta
    kernel = pair(weight.shape[2:], dims)
    around = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    if min(around) < 0:
        raise build.missing(node, "a transposed convolution with more padding than its kernel reaches")
    sizes = [(n - 1) * s + 1 + 2 * a + e for n, s, a, e in zip(image.shape[2:], stride, around, extra, strict=True)]
    wide = build.new((1, image.shape[1], *sizes))
    build.copy(build.value(0.0), wide)
    (up, left), (down, right) = around, stride
    place = wide.meta[:, :, up : up + (image.shape[2] - 1) * down + 1 : down]
    place = place[..., left : left + (image.shape[3] - 1) * right + 1 : right]
    build.copy(View(source.buffer, image), View(wide.buffer, place))
    build.constant(f"{name} turned", turned)
    more |= {"weight": f"{name} turned", "bias": build.name_of(given["bias"])}
    more |= {
        **{"groups": groups, "channels": image.shape[1] // groups, "rows": sizes[0], "columns": sizes[1]},
        **{"steps": wide.meta.stride()[1:], "kernel": kernel, "stride": (1, 1), "padding": (0, 0)},
        **{"dilation": dilation, "transposed_output": False, "out": pair(node.meta["val"].shape[2:], dims)},
    }
    return wide


def _is_matrix(view: View) -> bool:
    """Whether it is a constant that a linear layer could have as its weight, or as one of its rows."""
    return view.buffer.constant is not None and view.meta.dim() <= 2


def _product(build: Builder, node: fx.Node, one: fx.Node, other: fx.Node) -> View:
    """A product of two computed matrices, or of many pairs of them."""
    views = [build.packed(build.value(each)) for each in (one, other)]
    if any(view.meta.dim() < 2 for view in views):
        raise build.missing(node, "a product with a vector")
    lead = torch.broadcast_shapes(*(view.meta.shape[:-2] for view in views))
    grown = [view.meta.expand(*lead, *view.meta.shape[-2:]) for view in views]
    wide = [View(view.buffer, meta) for view, meta in zip(views, grown, strict=True)]
    wide = [view if not lead or view.meta.is_contiguous() else build.copied(view) for view in wide]
    output = build.new(node)
    build.steps.append(Step("product", output, wide))
    return output
