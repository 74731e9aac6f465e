"""A model as a chain of layers that can be fused, and all the rest as it is."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ttq_plugin.core.model.layers import tensor_of
from ttq_plugin.deploy.program.fusion import Activation, Follower, MaxPool, Norm, Nothing, Tail
from ttq_plugin.deploy.runtime.agreement import EXACT, asked, disagreement
from ttq_plugin.deploy.runtime.checks import unsteady
from ttq_plugin.deploy.runtime.fused import FusedLayer
from ttq_plugin.errors import first_line
from ttq_plugin.support.inputs import call, map_tensors, tensors

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
NORMS: dict[type[nn.Module], type[nn.BatchNorm1d | nn.BatchNorm2d]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
}
RELUS = (F.relu, torch.relu, F.relu_)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Identity)


Fused = list[tuple[str, FusedLayer]]


@dataclass
class Form:
    """A model in another form that shares its parameters.

    Attributes:
        run: Called with the inputs as one object.
        fused: The fused layers with the names of the layers that they stand for.
        traced: Whether it is a graph, in which no Python code of the model's is left.
    """

    run: Callable[[Any], Any]
    fused: Fused
    traced: bool

    def inputs(self, x: Any) -> dict[FusedLayer, Tensor]:
        """Note what each fused layer is given for a batch.

        Args:
            x: The batch.

        Returns:
            Inputs by layer; a layer that is called twice is two of them, of one name.
        """
        found: dict[FusedLayer, Tensor] = {}

        def note(layer: FusedLayer, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            found[layer] = (args[0] if args else named["input"]).clone()

        hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for _, layer in self.fused]
        self.run(x)
        for hook in hooks:
            hook.remove()
        return found


def form_of_model(model: nn.Module, example: Any) -> tuple[str, Form, str | None]:
    """Find the first form of a model that agrees with it.

    Args:
        model: In evaluation mode; not changed.
        example: Inputs of it.

    Returns:
        ``graph``, ``layers`` or ``torch``, the form of that name, and for ``torch`` the reason why it is no other.
    """
    reason = unsteady(model, example)
    for kind, make in {} if reason else {"graph": as_graph, "layers": as_layers}.items():
        try:
            form = make(model, example)
        except Exception as error:  # noqa: BLE001 - whatever a user's forward raises when it is given proxies
            reason = first_line(error)
            continue
        reason = disagreement(model, form.run, asked(model, example), EXACT)
        if reason is None:
            return kind, form, None
    return "torch", Form(lambda inputs: call(model, inputs), [], False), reason or ""


def as_graph(model: nn.Module, example: Any) -> Form:
    """Trace a model and fuse its convolutions and linear layers with what follows them.

    Tracing does not see branches that depend on what kind of object the model is given; the caller must compare.

    Args:
        model: In evaluation mode; not changed.
        example: Inputs; what is no tensor in them becomes part of the graph.

    Returns:
        The graph; to make it fails with any error where torch.fx cannot trace the model.
    """
    root = _Spread(twin_of(model), example)
    graph = fx.GraphModule(root, _Tracer().trace(root))
    fused: Fused = []
    modules = dict(graph.named_modules())
    made: dict[fx.Node, FusedLayer] = {}
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and fusible(modules[node.target]) and len(node.args) == 1 and not node.kwargs:
            absorbed, tail = _tail(node, modules)
            layer = FusedLayer(modules[node.target], tail)
            name = f"fused_{len(fused)}"
            graph.add_submodule(name, layer)
            with graph.graph.inserting_before(node):
                new = graph.graph.call_module(name, (node.args[0],))
            absorbed[-1].replace_all_uses_with(new)
            for each in reversed(absorbed):
                graph.graph.erase_node(each)
            made[new] = layer
            fused.append((str(node.target).removeprefix(_Spread.PREFIX), layer))
    _share_padding(made)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return Form(lambda inputs: graph(tensors(inputs)), fused, True)


def as_layers(model: nn.Module, example: Any = None) -> Form:
    """Let the model's own code run, with each convolution and linear layer replaced by a fused one without a tail.

    Args:
        model: In evaluation mode; not changed.
        example: Not needed.

    Returns:
        A copy of the modules.
    """
    del example
    twin = twin_of(model)
    layers: dict[nn.Module, FusedLayer] = {}
    fused: Fused = []
    for name, module in list(twin.named_modules(remove_duplicate=False)):
        if not fusible(module):
            continue
        if module not in layers:
            layers[module] = FusedLayer(module, Tail())
            fused.append((name, layers[module]))
        parent, _, leaf = name.rpartition(".")
        if name:
            setattr(twin.get_submodule(parent), leaf, layers[module])
    whole = layers.get(twin, twin)
    return Form(lambda inputs: call(whole, inputs), fused, False)


def twin_of(model: nn.Module) -> nn.Module:
    """Copy a model's modules but not its parameters and buffers.

    Args:
        model: Any module.

    Returns:
        A deep copy, or where something in it cannot be copied, a copy of the modules that shares everything else.
    """
    memo: dict[int, Any] = {id(p): p for p in [*model.parameters(), *model.buffers()]}
    try:
        twin = copy.deepcopy(model, memo)
    except Exception:  # noqa: BLE001 - locks, open files, tensors of a graph: what copying them raises is theirs
        return _shallow(model, {})
    return twin if set(twin.modules()).isdisjoint(model.modules()) else _shallow(model, {})


def _shallow(module: nn.Module, made: dict[nn.Module, nn.Module]) -> nn.Module:
    if module not in made:
        twin = made[module] = copy.copy(module)
        for kept in ("_parameters", "_buffers"):
            twin.__dict__[kept] = dict(module.__dict__[kept])
        twin.__dict__["_modules"] = {
            name: child if child is None else _shallow(child, made) for name, child in module._modules.items()
        }
    return made[module]


class _Spread(nn.Module):
    """A model that is given its inputs' tensors as one list, which a trace can look into."""

    PREFIX = "model."

    def __init__(self, model: nn.Module, example: Any) -> None:
        super().__init__()
        self.model = model
        self.form = [example]  # in a list, so that a module in it would be none of ours

    def forward(self, found: list[Tensor]) -> Any:
        places = itertools.count()
        return call(self.model, map_tensors(lambda _: found[next(places)], self.form[0]))


class _Tracer(fx.Tracer):
    """Looks into whatever is no module of torch's own, as torch.fx does, but not into layers with hooks."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or (_hooked(m) and not any(m.children()))


def fusible(module: nn.Module) -> bool:
    """Whether a layer is one that the kernels know: float32, no groups, padded with zeros by numbers, no hooks."""
    if type(module) not in LAYERS:
        return False
    weight = tensor_of(module, "weight")
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return False
    if _hooked(module) or module.training:
        return False
    if isinstance(module, nn.Linear):
        return True
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _tail(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[list[fx.Node], Tail]:
    """What follows a layer and only that layer: the nodes, from the layer's on, and what they are."""
    layer, tail, absorbed = modules[str(node.target)], Tail(), [node]
    while len(node.users) == 1:
        [following] = node.users
        if following.args[:1] != (node,) or not tail.take(_follower(following, modules, layer), _linear(layer)):
            break
        node = following
        absorbed.append(node)
    return absorbed, tail


def _linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear)


def _follower(node: fx.Node, modules: dict[str, nn.Module], layer: nn.Module) -> Follower | None:
    """What a node is to the layer before it."""
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    if module is not None and (module.training or _hooked(module)):
        return None
    if isinstance(module, DROPOUTS) or (node.target is F.dropout and not _trains(node)):
        return Nothing()
    norm = NORMS.get(type(layer))
    if norm is not None and isinstance(module, norm):
        known = module.running_var is not None and module.running_var.dtype == torch.float32
        return Norm(module) if known else None
    if (slope := _slope(node, module)) is not None:
        return Activation(slope)
    return _pool(node, module, layer)


def _trains(node: fx.Node) -> bool:
    """Whether a functional dropout is switched on."""
    return bool(_argument(node, 2, "training", True))


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _slope(node: fx.Node, module: nn.Module | None) -> float | None:
    """The activation's slope below zero; None if it is none."""
    slope: Any = None
    if isinstance(module, nn.ReLU) or node.target in RELUS or (node.op == "call_method" and node.target == "relu"):
        slope = 0.0
    elif isinstance(module, nn.LeakyReLU):
        slope = module.negative_slope
    elif node.target is F.leaky_relu:
        slope = _argument(node, 1, "negative_slope", 0.01)
    return float(slope) if isinstance(slope, int | float) else None


def _pool(node: fx.Node, module: nn.Module | None, layer: nn.Module) -> MaxPool | None:
    """The max-pooling that a node is; None if it is none."""
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
    window, stride = _pair(values[0], one), _pair(values[1] or values[0], one)
    plain = _pair(values[2], False) in {(0, 0), (0,)} and set(_pair(values[3], False)) == {1}
    return MaxPool(window, stride, plain and not values[4] and not values[5])


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
