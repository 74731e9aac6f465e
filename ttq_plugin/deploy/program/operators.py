"""What a node of a graph does, by torch's own name for it and with named arguments, however the graph was made.

A graph from torch.export calls torch's operators. A graph from torch.fx calls modules, functions and methods; the
tables here say which operator each of them is. Whatever they do not list is opaque: only torch can run it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

aten = torch.ops.aten

MODULES: dict[type[nn.Module], Any] = {
    nn.Conv1d: aten.conv1d.default,
    nn.Conv2d: aten.conv2d.default,
    nn.Linear: aten.linear.default,
    nn.BatchNorm1d: aten.batch_norm.default,
    nn.BatchNorm2d: aten.batch_norm.default,
    nn.ReLU: aten.relu.default,
    nn.LeakyReLU: aten.leaky_relu.default,
    nn.MaxPool1d: aten.max_pool1d.default,
    nn.MaxPool2d: aten.max_pool2d.default,
    nn.Identity: aten.alias.default,
    nn.AlphaDropout: aten.alpha_dropout.default,
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), aten.dropout.default),
}
"""Modules of torch that are one operator each; their attributes are called as its arguments."""

FUNCTIONS: dict[Any, Any] = {
    **dict.fromkeys((F.relu, torch.relu, F.relu_), aten.relu.default),
    F.leaky_relu: aten.leaky_relu.default,
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d), aten.max_pool1d.default),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), aten.max_pool2d.default),
    F.dropout: aten.dropout.default,
}
"""Functions of torch that are one operator each; their arguments have its order."""

METHODS = {"relu": aten.relu.default}
"""Methods of tensors that are one operator each."""

NAMES = {"training": "train"}
"""Arguments that functions and modules call otherwise than the operator does."""

DEFAULTS = {"p": 0.5, "train": True}
"""Arguments that the operator always wants, and functions do not."""

IDLE = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "alias"})
"""Operators that do nothing in evaluation mode."""


@dataclass(frozen=True)
class Operator:
    """An operation of torch on the node's first argument.

    Attributes:
        kind: Torch's name for it, without namespace, overload and the underscore of operations in place.
        given: All its arguments by the names of its schema, defaults included.
        module: The module whose whole work it is, or None.
    """

    kind: str
    given: Mapping[str, Any]
    module: nn.Module | None = None

    @property
    def idle(self) -> bool:
        """Whether it only hands on what it is given."""
        return self.kind in IDLE and not (self.given.get("train") and self.given.get("p"))


def is_operator(node: fx.Node) -> bool:
    """Whether a node calls one of torch's operators."""
    return node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)


def kind_of(node: fx.Node) -> str:
    """Name of a node's operation, without namespace and overload."""
    return _kind(node.target)


def base_of(kind: str) -> str:
    """An operation's name without the underscore that says that it works in place."""
    return kind if kind.startswith("__") else kind.removesuffix("_")


def _kind(target: Any) -> str:
    return str(target._schema.name.split("::")[1])


def arguments(node: fx.Node) -> dict[str, Any]:
    """The node's arguments by their names in the operation's schema, defaults included."""
    given = _bound(node.target, node.args, node.kwargs)
    assert given is not None
    return given


def read(node: fx.Node, modules: Mapping[str, nn.Module] | None = None) -> Operator | None:
    """Say what a node of any graph does.

    Args:
        node: The node.
        modules: The graph's modules by name, where it calls some.

    Returns:
        None if it is no single operator that is known here.
    """
    if is_operator(node):
        return Operator(base_of(kind_of(node)), arguments(node))
    if node.op == "call_module":
        single = len(node.args) == 1 and not node.kwargs
        return of_module((modules or {})[str(node.target)]) if single else None
    target: Any = None
    if node.op == "call_function":
        target = FUNCTIONS.get(node.target)
    elif node.op == "call_method":
        target = METHODS.get(str(node.target).removesuffix("_"))
    given = None if target is None else _bound(target, node.args, node.kwargs, DEFAULTS)
    return None if given is None else Operator(_kind(target), given)


def of_module(module: nn.Module) -> Operator | None:
    """Say which operator a module is.

    Args:
        module: Any module.

    Returns:
        None if it is not one, does more (hooks, indices), or is in training mode.
    """
    target = MODULES.get(type(module))
    if target is None or module.training or hooked(module) or getattr(module, "return_indices", False):
        return None
    given = {each.name: getattr(module, each.name, each.default_value) for each in target._schema.arguments}
    return Operator(_kind(target), given | ({"train": False} if "train" in given else {}), module)


def hooked(module: nn.Module) -> bool:
    """Whether a module has hooks, which see or change what it is given or gives."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _bound(
    target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Arguments by their names in an operator's schema; None if they ask for something that it does not do."""
    names = [each.name for each in target._schema.arguments]
    given = {each.name: each.default_value for each in target._schema.arguments}
    given |= {name: value for name, value in (defaults or {}).items() if name in given}
    given |= dict(zip(names, args, strict=False))
    rest = {NAMES.get(name, name): value for name, value in kwargs.items()}
    given |= {name: value for name, value in rest.items() if name in given}
    more = [value for name, value in rest.items() if name not in given and name not in ("inplace", "input")]
    return None if any(more) or any(args[len(names) :]) else given


Reader = Callable[[fx.Node], Operator | None]
"""What says what a node of one graph does."""
