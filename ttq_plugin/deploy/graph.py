"""A model as a chain of layers that can be fused, and all the rest as it is."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ttq_plugin.deploy.fused import FusedLayer
from ttq_plugin.deploy.program import Tail

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
NORMS = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d}
RELUS = (F.relu, torch.relu, F.relu_)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Identity)


def fuse(model: nn.Module) -> tuple[nn.Module, list[tuple[str, FusedLayer]]]:
    """A copy of the model whose convolutions and linear layers are fused with what follows them.

    Args:
        model: in evaluation mode; not changed. Where torch.fx cannot trace it, each layer is replaced alone.

    Returns:
        The copy, and its fused layers with the names of the layers they stand for.
    """
    try:
        graph = fx.symbolic_trace(model)
    except Exception:  # noqa: BLE001 - whatever a user's forward raises when it is given proxies
        return _alone(model)
    fused: list[tuple[str, FusedLayer]] = []
    modules = dict(graph.named_modules())
    made: dict[fx.Node, FusedLayer] = {}
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and fusible(modules[node.target]):
            last, tail = _tail(node, modules)
            layer = FusedLayer(modules[node.target], tail)
            name = f"fused_{len(fused)}"
            graph.add_submodule(name, layer)
            with graph.graph.inserting_before(node):
                new = graph.graph.call_module(name, (node.args[0],))
            last.replace_all_uses_with(new)
            made[new] = layer
            fused.append((str(node.target), layer))
    graph.graph.eliminate_dead_code()
    _share_padding(made)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph, fused


def fusible(module: nn.Module) -> bool:
    """Whether a layer is one that the kernels know: float32, no groups, padded with zeros by numbers."""
    if type(module) not in LAYERS or module.weight.dtype != torch.float32 or module.weight.device.type != "cpu":
        return False
    if isinstance(module, nn.Linear):
        return True
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _alone(model: nn.Module) -> tuple[nn.Module, list[tuple[str, FusedLayer]]]:
    """Each layer by itself, in a copy of the modules that shares the parameters."""
    memo = {id(p): p for p in [*model.parameters(), *model.buffers()]}
    twin = copy.deepcopy(model, memo)
    fused = []
    for name, module in list(twin.named_modules()):
        if name and fusible(module):
            parent, _, leaf = name.rpartition(".")
            layer = FusedLayer(module, Tail())
            setattr(twin.get_submodule(parent), leaf, layer)
            fused.append((name, layer))
    return twin, fused


def _tail(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[fx.Node, Tail]:
    """What follows a layer and only that layer: the last node of it, and what it is."""
    layer, tail = modules[node.target], Tail()
    activated = False
    while len(node.users) == 1:
        [following] = node.users
        module = modules.get(following.target) if following.op == "call_module" else None
        if following.args[:1] != (node,):
            break
        slope = None if activated else _slope(following, module)
        pool = _pool(following, module, layer) if tail.pool is None else None
        if isinstance(module, DROPOUTS) or following.target in {F.dropout} and not _trains(following):
            pass
        elif slope is not None:
            tail.slope, activated = slope, True
        elif pool is not None:
            tail.pool = pool
        elif isinstance(module, NORMS.get(type(layer), ())) and not (activated or tail.pool or tail.norm):
            if module.running_var is None or module.running_var.dtype != torch.float32:
                break
            tail.norm = module
        else:
            break
        node = following
    return node, tail


def _trains(node: fx.Node) -> bool:
    """Whether a functional dropout is switched on."""
    return bool(_argument(node, 2, "training", True))


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _slope(node: fx.Node, module: nn.Module | None) -> float | None:
    """The activation's slope below zero; None if it is none, or not monotone."""
    slope: Any = None
    if isinstance(module, nn.ReLU) or node.target in RELUS or (node.op == "call_method" and node.target == "relu"):
        slope = 0.0
    elif isinstance(module, nn.LeakyReLU):
        slope = module.negative_slope
    elif node.target is F.leaky_relu:
        slope = _argument(node, 1, "negative_slope", 0.01)
    return float(slope) if isinstance(slope, int | float) and 0 <= slope <= 1 else None


def _pool(node: fx.Node, module: nn.Module | None, layer: nn.Module) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Window and stride of a max-pooling without padding, dilation or rounding up; None if it is none."""
    one = isinstance(layer, nn.Conv1d)
    functions = (F.max_pool1d, torch.max_pool1d) if one else (F.max_pool2d, torch.max_pool2d)
    if isinstance(module, nn.MaxPool1d if one else nn.MaxPool2d):
        values = [module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode]
        values.append(module.return_indices)
    elif node.op == "call_function" and node.target in functions:
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
        defaults = (None, None, 0, 1, False, False)
        values = [_argument(node, i + 1, name, d) for i, (name, d) in enumerate(zip(names, defaults, strict=True))]
    else:
        return None
    if isinstance(layer, nn.Linear):
        return None
    window, stride = _pair(values[0], one), _pair(values[1] or values[0], one)
    plain = _pair(values[2], False) in {(0, 0), (0,)} and set(_pair(values[3], False)) == {1}
    return (window, stride) if plain and not values[4] and not values[5] else None


def _pair(value: Any, one: bool) -> tuple[int, int]:
    """(rows, columns) of a number, or of a sequence of one or two."""
    numbers = tuple(value) if isinstance(value, tuple | list) else (value,)
    if one:
        return (1, numbers[0])
    return (numbers[0], numbers[-1])


def _share_padding(made: dict[fx.Node, FusedLayer]) -> None:
    """Let a convolution whose only user is another one write into that one's padded input."""
    for node, layer in made.items():
        user = next(iter(node.users)) if len(node.users) == 1 else None
        if user in made and not any(isinstance(each.layer, nn.Linear) for each in (layer, made[user])):
            layer.follower, made[user].leader = [made[user]], [layer]
