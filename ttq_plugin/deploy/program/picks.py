"""Numbers in other places along a dimension, or between two of them, as steps: flips, rolls, indices, upsampling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ttq_plugin.deploy.program.builder import Builder, Operation
from ttq_plugin.deploy.program.operators import kind_of
from ttq_plugin.deploy.program.steps import Step, View

RESIZED: dict[str, Any] = {
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d"), torch.ops.aten.upsample_nearest1d.default),
    **dict.fromkeys(
        ("_upsample_nearest_exact1d", "_upsample_nearest_exact2d"), torch.ops.aten._upsample_nearest_exact1d.default
    ),
    **dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d"), torch.ops.aten.upsample_linear1d.default),
}
"""Upsampling and the operator that does it along one dimension."""


def picked(build: Builder, source: View, dim: int, first: list[int], second: Any = None, share: Any = None) -> View:
    """A step that picks places along a dimension.

    Args:
        build: What the step is added to.
        source: The node whose numbers are picked.
        dim: The dimension.
        first: The place of each number of the result.
        second: Another place of each, or None.
        share: What the second place counts, between 0 and 1; the first counts the rest.

    Returns:
        The result.
    """
    shape = list(source.meta.shape)
    shape[dim] = len(first)
    output = build.new(shape)
    more = {"dim": dim % len(shape), "first": first, "second": second, "share": share}
    build.steps.append(Step("pick", output, [source], more))
    return output


def flip(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Dimensions backwards."""
    kind, result = kind_of(node), build.value(given["self"])
    for dim in given["dims"] if kind == "flip" else [{"flipud": 0, "fliplr": 1}[kind]]:
        result = picked(build, result, dim, list(range(result.meta.shape[dim]))[::-1])
    return result


def roll(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Dimensions in circles."""
    result = build.value(given["self"])
    if not given["dims"]:
        raise build.missing(node, "roll over the samples of a batch")
    for shift, dim in zip(given["shifts"], given["dims"], strict=True):
        size = result.meta.shape[dim]
        result = picked(build, result, dim, [(at - shift) % size for at in range(size)])
    return result


def index(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Constant places along one dimension."""
    asked = [given["index"]] if "index" in given else list(given["indices"])
    known = [(dim, each) for dim, each in enumerate(asked) if each is not None]
    dim, which = (given["dim"], known[0][1]) if "dim" in given else known[0]
    view = build.value(which)
    source = build.value(given["self"])
    if len(known) > 1 or view.buffer.constant is None or view.meta.dim() != 1:
        raise build.missing(node, f"{kind_of(node)} by computed places, or along several dimensions")
    places = build.actual(view)
    if places.dtype == torch.bool:
        raise build.missing(node, f"{kind_of(node)} by truths")
    return picked(build, source, dim, (places % source.meta.shape[dim]).tolist())


def upsample(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Nearest or linear, one dimension after the other."""
    kind = kind_of(node)
    result = build.value(given["self"] if "self" in given else given["input"])
    sizes = node.meta["val"].shape[2:]
    scales = given.get("scale_factors") or [given.get(name) for name in ("scales_h", "scales_w")][: len(sizes)]
    scales = [given["scales"]] if "scales" in given else scales
    for dim, (size, scale) in enumerate(zip(sizes, scales, strict=True), 2):
        corners = [given["align_corners"]] if "align_corners" in given else []
        rows = torch.eye(result.meta.shape[dim])[None]
        result = picked(build, result, dim, *_shares(RESIZED[kind](rows, [size], *corners, scale)[0]))
    return result


def _shares(matrix: Tensor) -> tuple[list[int], list[int] | None, list[float] | None]:
    """Where the one or two numbers of each column lie, and the second's part."""
    found = [column.nonzero().flatten().tolist() for column in matrix.T]
    first, second = [each[0] for each in found], [each[-1] for each in found]
    if first == second:
        return first, None, None
    return (
        first,
        second,
        [float(matrix[b, at]) if a != b else 0.0 for at, (a, b) in enumerate(zip(first, second, strict=True))],
    )


PICKS: dict[str, Operation] = {
    **{"flip": flip, "flipud": flip, "fliplr": flip, "roll": roll, "index_select": index, "index": index},
    **dict.fromkeys(RESIZED, upsample),
}
