"""Decides which following operations are fused into a convolution or linear layer, for every form of a model.

Operators are read in the same way from torch's modules and from exported graphs; here it is decided whether they can be
fused into the layer before them. The order of a layer's operations is always the same: BatchNorm, pooling, activation.
An activation before the pooling may be done after it, because it never turns the larger of two values into the smaller
one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import fx, nn

from ttq_plugin.deploy.program.folding import fixed
from ttq_plugin.deploy.program.geometry import Pair, pair
from ttq_plugin.deploy.program.operators import Operator, Reader, read

DIMS = {"linear": 0, "conv1d": 1, "conv2d": 2, "conv_transpose1d": 1, "conv_transpose2d": 2}
"""Dimensions along which the windows of a layer move; products of matrices are linear layers."""
POOLS = {"max_pool1d": 1, "max_pool2d": 2}


@dataclass(frozen=True)
class Norm:
    """BatchNorm with the statistics of the training."""

    what: Operator


@dataclass(frozen=True)
class Activation:
    """Leaves numbers above zero as they are and multiplies those below by a slope."""

    slope: float


@dataclass(frozen=True)
class MaxPool:
    """Maxima over windows, each size (rows, columns); ``plain`` if there is no padding, dilation or rounding up."""

    window: Pair
    stride: Pair
    plain: bool
    dims: int = 2


@dataclass(frozen=True)
class Nothing:
    """What does nothing in evaluation mode, such as dropout."""


Follower = Norm | Activation | MaxPool | Nothing


@dataclass
class Tail:
    """What follows a layer.

    Attributes:
        norm: BatchNorm, or None.
        slope: Slope of the activation below zero: 1 for none, 0 for ReLU, anything between for LeakyReLU.
        pool: (window, stride) of max-pooling, each (rows, columns), or None.
    """

    norm: Operator | None = None
    slope: float = 1.0
    pool: tuple[Pair, Pair] | None = None

    def take(self, follower: Follower | None, dims: int) -> bool:
        """Fuse the only follower of the layer so far, if possible.

        Args:
            follower: The kind of follower; None if it cannot be fused.
            dims: Number of dimensions of the layer's windows; 0 for a linear layer, without rows and columns.

        Returns:
            Whether it was taken.
        """
        match follower:
            case Nothing():
                return True
            case Norm(what) if dims and self == Tail():
                self.norm = what
                return True
            case Activation(slope) if self.slope == 1 and 0 <= slope < 1:
                self.slope = slope
                return True
            case MaxPool(window, stride, True, along) if along == dims and self.pool is None:
                self.pool = window, stride
                return True
        return False


def follower(operator: Operator | None) -> Follower | None:
    """Say what an operator is to the layer before it.

    Args:
        operator: The operator; None for an opaque one.

    Returns:
        None for whatever no layer takes along.
    """
    if operator is None:
        return None
    kind, given = operator.kind, operator.given
    if operator.idle:
        return Nothing()
    if kind == "batch_norm":
        return Norm(operator) if fixed(given) else None
    if kind in ("relu", "leaky_relu"):
        slope = given.get("negative_slope", 0.0)
        return Activation(float(slope)) if isinstance(slope, int | float) else None
    if kind in POOLS:
        return _pool(given, POOLS[kind])
    return None


def _pool(given: Mapping[str, Any], dims: int) -> MaxPool | None:
    numbers = [given[word] for word in ("kernel_size", "stride", "padding", "dilation")]
    single = [each for value in numbers for each in (value if isinstance(value, list | tuple) else [value])]
    if any(isinstance(each, fx.Node) for each in single):
        return None  # a window that is computed from the model's inputs
    window, stride = pair(numbers[0], dims), pair(numbers[1] or numbers[0], dims)
    plain = not any(pair(numbers[2], dims, 0)) and set(pair(numbers[3], dims)) == {1} and not given["ceil_mode"]
    return MaxPool(window, stride, plain, dims)


def followers(node: fx.Node, dims: int, reader: Reader) -> tuple[list[fx.Node], Tail]:
    """Collect the operations that follow only this layer, as far as they can be fused.

    Args:
        node: The layer, in any graph.
        dims: Number of dimensions of its windows.
        reader: Says what a node of the graph does.

    Returns:
        The nodes, from the layer's own on, and what they are together.
    """
    absorbed, tail = [node], Tail()
    while len(node.users) == 1:
        [following] = node.users
        if following.args[:1] != (node,) or not tail.take(follower(reader(following)), dims):
            break
        node = following
        absorbed.append(node)
    return absorbed, tail


@dataclass(frozen=True)
class Fusion:
    """A layer of a traced graph.

    Attributes:
        nodes: The nodes of the layer and of its fused followers.
        layer: What it is, with its module.
        tail: The fused followers.
    """

    nodes: list[fx.Node]
    layer: Operator
    tail: Tail


def fusions(graph: fx.GraphModule, takes: Callable[[nn.Module], bool]) -> list[Fusion]:
    """Find the layers of a traced graph; all of its other nodes are opaque and stay what they are.

    Args:
        graph: The result of ``traced``; it is not changed.
        takes: Whether the caller can run a layer.

    Returns:
        The layers in order, each with its fused followers.
    """
    modules = dict(graph.named_modules())
    found = []
    for node in graph.graph.nodes:
        if node.op != "call_module" or not takes(modules[str(node.target)]):
            continue
        layer = read(node, modules)
        if layer is not None and layer.kind in DIMS:
            nodes, tail = followers(node, DIMS[layer.kind], partial(read, modules=modules))
            found.append(Fusion(nodes, layer, tail))
    return found
