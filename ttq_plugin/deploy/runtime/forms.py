"""A model as a chain of layers that can be fused, and all the rest as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ttq_plugin.deploy.flat import PREFIX
from ttq_plugin.deploy.program.fusion import Tail, fusions
from ttq_plugin.deploy.program.graphs import traced
from ttq_plugin.deploy.program.operators import of_module
from ttq_plugin.deploy.runtime.agreement import EXACT, asked, disagreement
from ttq_plugin.deploy.runtime.checks import unsteady
from ttq_plugin.deploy.runtime.fused import FusedLayer
from ttq_plugin.deploy.runtime.int8 import int8_layer
from ttq_plugin.errors import InputError, first_line
from ttq_plugin.support.inputs import call, tensors

KERNELS = {"conv1d", "conv2d", "linear"}
"""Layers that the kernels know."""

Fused = list[tuple[str, FusedLayer]]


@dataclass
class Form:
    """A model in another form that shares its parameters.

    Attributes:
        run: Called with the inputs as one object.
        fused: The fused layers with the names of the layers that they replace.
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
        model: The model, in evaluation mode; it is not changed.
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
        model: The model, in evaluation mode; it is not changed.
        example: Inputs; what is no tensor in them becomes part of the graph.

    Returns:
        The graph; to make it fails with any error where torch.fx cannot trace the model.
    """
    graph = traced(twin_of(model), example)
    fused: Fused = []
    made: dict[fx.Node, FusedLayer] = {}
    for fusion in fusions(graph, fusible):
        first, last = fusion.nodes[0], fusion.nodes[-1]
        assert fusion.layer.module is not None
        layer = FusedLayer(fusion.layer.module, fusion.tail)
        name = f"fused_{len(fused)}"
        graph.add_submodule(name, layer)
        with graph.graph.inserting_before(first):
            new = graph.graph.call_module(name, (first.args[0],))
        last.replace_all_uses_with(new)
        for each in reversed(fusion.nodes):
            graph.graph.erase_node(each)
        made[new] = layer
        fused.append((str(first.target).removeprefix(PREFIX), layer))
    _share_padding(made)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return Form(lambda inputs: graph(tensors(inputs)), fused, True)


def as_layers(model: nn.Module, example: Any = None) -> Form:
    """Let the model's own code run, with each convolution and linear layer replaced by a fused one without a tail.

    Args:
        model: The model, in evaluation mode; it is not changed.
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


def fusible(module: nn.Module) -> bool:
    """Whether the kernels know a layer: float32, not empty, no groups, padded with zeros by numbers, no hooks."""
    layer = of_module(module)
    if layer is None or layer.kind not in KERNELS:
        return False
    weight = layer.given["weight"]
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or not weight.numel():
        return False
    if layer.kind == "linear":
        return True
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _share_padding(made: dict[fx.Node, FusedLayer]) -> None:
    """Let a convolution whose only user is another one write into that one's padded input."""
    for node, layer in made.items():
        user = next(iter(node.users)) if len(node.users) == 1 else None
        if user in made and not any(isinstance(each.layer, nn.Linear) for each in (layer, made[user])):
            layer.follower, made[user].leader = [made[user]], [layer]


def allow_int8(form: Form, names: bool | Collection[str], x: Any) -> None:
    """Prepare the layers that may run in eight bits.

    Args:
        form: The model whose layers they are.
        names: Names of the layers, or True for all.
        x: Inputs of the model, whose ranges are those of the eight bits.

    Raises:
        InputError: If a name is not that of a fused layer.
    """
    known = {name for name, _ in form.fused}
    asked = known if names is True else set(names or ())
    if unknown := sorted(asked - known):
        raise InputError(f"int8 must name layers among {', '.join(sorted(known))}, got {', '.join(unknown)}.")
    inputs = form.inputs(x) if asked else {}
    for name, layer in form.fused:
        if name in asked and layer in inputs:
            layer.int8 = int8_layer(layer.layer, layer.spec, inputs[layer])
