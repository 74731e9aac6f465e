"""A method attached to a plain model as a torch parametrization: any training loop trains it.

``module.weight`` then reads as the ternary weight, computed anew at each access from the latent weight,
``module.parametrizations.weight.original``, and the layer's ``AttachedTernary``, ``module.parametrizations.weight[0]``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ttq_plugin.core.layers import LAYER_TYPES, channel_of, check_layers, selectable
from ttq_plugin.core.methods import get_method
from ttq_plugin.core.state import TernaryState, share_thresholds
from ttq_plugin.core.ternarizer import Params, Ternarizer
from ttq_plugin.errors import InputError


class AttachedTernary(TernaryState):
    """A layer's learned numbers as a parametrization of its weight: latent weight in, ternary weight out.

    Attributes:
        order: names of the layer's own parameters as they stood before, for ``bake``.
    """

    def __init__(self, method: Ternarizer, params: Params, order: Iterable[str]) -> None:
        super().__init__(method, params)
        self.order = tuple(order)

    def forward(self, w: Tensor) -> Tensor:
        """The ternary weight of the latent weight ``w``; brings back what the last optimiser step took out of range."""
        self.project_()
        return super().forward(w)

    def project_(self) -> None:
        """Bring what was learned back to at least 1e-8, in place.

        At the start of a forward pass this equals a projection after each optimiser step, and needs no hold on the
        loop. A second forward pass before the next step changes nothing, so autograd need not see it: with
        ``.data`` what the first one saved stays valid. Where the forward pass sees copies of what the optimiser
        changes, as under FSDP, the copies alone are projected: see ``attach.project_``.
        """
        self.method.project_({name: value.data for name, value in self.params.items()})


def ternarize(
    model: nn.Module,
    layers: Iterable[str],
    method: str | Ternarizer = "pttq",
    *,
    granularity: str = "default",
    **options: Any,
) -> nn.Module:
    """Make the named layers' weights ternary while the model trains, in any loop; ``bake`` ends it.

    Build the optimiser afterwards, from ``parameter_groups(model)``: scales and thresholds are new parameters.

    Args:
        model: the model, full precision; changed in place.
        layers: names of convolution or linear layers, as in ``model.named_modules()``.
        method: a name in ``METHODS``, or a method.
        granularity: ``default`` for one pair of scales a layer (the papers), ``out_channel`` for one an output channel.
        options: the method's numbers and options (``t``, ``t_min``, ``alpha``, ``scale_init``, ``on_empty``, ...), see
            ``Ternarizer``.

    Returns:
        The model itself. A threshold that ``on_empty="clip"`` lowered is told in a warning.

    Raises:
        InputError: for a layer, weight, method or option that cannot work; the model is left as it was.
    """
    chosen = (get_method(method) if isinstance(method, str) else method).configure(**options)
    modules = _select(model, layers)
    states: dict[str, AttachedTernary] = {}
    notes: list[str] = []
    for name, module in modules.items():
        own = chosen if granularity == "default" else chosen.configure(channel=channel_of(module, granularity))
        params, lowered = own.init(module.weight, name)  # type: ignore[arg-type]
        states[name] = AttachedTernary(own, params, module._parameters)
        notes += lowered
    if chosen.share_thresholds:
        share_thresholds(list(states.values()))
    for name, module in modules.items():
        # Unsafe means unchecked here: shape and dtype are kept by construction, the check would cost a forward pass.
        parametrize.register_parametrization(module, "weight", states[name], unsafe=True)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return model


def parameter_groups(
    model: nn.Module, lr_scale: float | None = 1e-3, lr_threshold: float | None = 1e-4, **rest: Any
) -> list[dict[str, Any]]:
    """Groups for an optimiser: weights and all else, scales, thresholds with alpha; each parameter exactly once.

    Args:
        model: a model that ``ternarize`` changed, or a full-precision one, which gives one group.
        lr_scale: learning rate of the scales W_p, W_n; None for the optimiser's own.
        lr_threshold: learning rate of thresholds and alpha where the method learns them; None for the optimiser's own.
        rest: options of the first group, such as ``weight_decay``.

    Returns:
        One to three groups, without empty ones. Scales and thresholds have no weight decay: it would pull them to
        zero, where neither means anything.

    Raises:
        InputError: for a learning rate that is negative or no number.
    """
    own: dict[str, list[nn.Parameter]] = {"scales": [], "thresholds": []}
    for _, state in _attached(model):
        own["scales"] += [p for n, p in state.named_parameters(recurse=False) if n == "scales"]
        own["thresholds"] += [p for n, p in state.named_parameters(recurse=False) if n != "scales"]
    learned = {id(p) for members in own.values() for p in members}
    groups: list[dict[str, Any]] = [{**rest, "params": [p for p in model.parameters() if id(p) not in learned]}]
    for members, key, rate in (
        (own["scales"], "lr_scale", lr_scale),
        (own["thresholds"], "lr_threshold", lr_threshold),
    ):
        options = {} if check_rate(key, rate) is None else {"lr": rate}
        groups.append({"params": list({id(p): p for p in members}.values()), "weight_decay": 0.0, **options})
    return [group for group in groups if group["params"]]


def project_(model: nn.Module) -> None:
    """Bring every scale, threshold and alpha back to at least 1e-8, in place.

    Forward passes do so by themselves. Call it after ``optimizer.step()`` only where they see copies of the parameters
    that the optimiser changes (FSDP's shards, a master copy in another precision), else scales may stay negative.

    Args:
        model: a model that ``ternarize`` changed, sharded or not.
    """
    for _, state in _attached(model):
        state.project_()


@torch.no_grad()
def bake(model: nn.Module) -> nn.Module:
    """A plain copy of the model whose selected weights are exactly ``{-W_n, 0, +W_p}``; training can go on.

    Args:
        model: a model that ``ternarize`` changed, compiled or not; not changed.

    Returns:
        A deep copy without parametrizations of this module's, in the mode (train or eval) of the model; its state dict
        has the keys and the order of the model before ``ternarize``.

    Raises:
        InputError: if no layer is ternary, one has further parametrizations, or the model is sharded.
    """
    model = getattr(model, "_orig_mod", model)
    found = list(_attached(model))
    if not found:
        raise InputError("the model has no ternary layer to bake; call ternarize(model, layers) first.")
    for name, _ in found:
        parts: Any = model.get_submodule(name).parametrizations
        if len(parts) > 1 or len(parts["weight"]) > 1:
            raise InputError(f"{name}: has parametrizations beside the ternary one; remove them before bake.")
        if _is_sharded(parts["weight"].original):
            raise InputError(
                f"{name}: is sharded; gather the full state dict, load it into a model that was made by the same call "
                "of ternarize, and bake that one."
            )
    plain = deepcopy(model)
    for name, state in list(_attached(plain)):
        _detach(plain.get_submodule(name), state)
    return plain


def check_rate(name: str, value: float | None) -> float | None:
    """A learning rate that can work.

    Args:
        name: what it is called, for the message.
        value: the rate, or None for the optimiser's own.

    Returns:
        The value.

    Raises:
        InputError: if it is negative or no number.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e6):
        raise InputError(f"{name} must be a number of at least 0, or None for the optimiser's own, got {value!r}.")
    return value


def _attached(model: nn.Module) -> Iterator[tuple[str, AttachedTernary]]:
    """(layer name, state) of every layer that ``ternarize`` changed."""
    for name, module in model.named_modules():
        parts = module._modules.get("parametrizations")
        if isinstance(parts, nn.ModuleDict) and "weight" in parts:
            for part in parts["weight"].children():
                if isinstance(part, AttachedTernary):
                    yield name, part


def _is_sharded(weight: object) -> bool:
    """Whether a parameter is a DTensor, asked without importing torch.distributed."""
    return hasattr(weight, "full_tensor")


def _detach(module: nn.Module, state: AttachedTernary) -> None:
    """Give a layer of a deep copy its class and its plain, ternary weight back.

    Not by ``parametrize.remove_parametrizations``: it deletes the property from the parametrized class, which torch's
    deep copies share with their original, so the original would lose its weight.
    """
    latent: nn.Parameter = module.parametrizations.weight.original  # type: ignore[union-attr, assignment]
    state.project_()
    weight = nn.Parameter(state(latent), requires_grad=latent.requires_grad)
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    module.register_parameter("weight", weight)
    names = dict.fromkeys((*state.order, *module._parameters))
    module._parameters = {name: module._parameters[name] for name in names if name in module._parameters}


def _select(model: nn.Module, layers: Iterable[str]) -> dict[str, nn.Module]:
    """The named layers, all of them fit for a parametrization."""
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise InputError(f"layers must be a list of layer names, got {layers!r}.")
    names, known = list(layers), dict(model.named_modules(remove_duplicate=False))
    available = f"the model's layers are {', '.join(selectable(model)) or 'none that could be ternary'}"
    if not names:
        raise InputError(f"layers must name at least one layer, got none; {available}.")
    if missing := [name for name in names if name not in known]:
        raise InputError(f"layers names {missing[0]!r}, which the model does not have; {available}.")
    modules = {name: known[name] for name in names}
    if len({id(module) for module in modules.values()}) < len(names):
        raise InputError(f"layers names the same layer more than once: {', '.join(names)}.")
    projections = {id(m.out_proj) for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    for name, module in modules.items():
        _check_layer(name, module, id(module) in projections)
    check_layers(model, modules)
    return modules


def _check_layer(name: str, module: nn.Module, projection: bool) -> None:
    """The first reason, if any, why this module's weight cannot be parametrized."""
    if hasattr(module, "_nni_wrapper"):
        raise InputError(
            f"{name}: is wrapped by an NNI compressor; call its unwrap_model() first, or use its quantizer."
        )
    if parametrize.is_parametrized(module):
        raise InputError(f"{name}: already has a parametrization; bake or remove it first.")
    if not isinstance(module, LAYER_TYPES):
        kinds = ", ".join(t.__name__ for t in LAYER_TYPES)
        raise InputError(f"{name}: a {type(module).__name__} cannot be ternary, only {kinds} can.")
    if projection:
        raise InputError(
            f"{name}: is a projection of nn.MultiheadAttention, which reads weights without calling the layer; "
            "leave it out."
        )
    if module._parameters.get("weight") is None:
        raise InputError(
            f"{name}: its weight is not a plain parameter (pruned or normalised by a hook); undo that first."
        )
    if _is_sharded(module._parameters["weight"]):
        raise InputError(f"{name}: is sharded already; ternarize before fully_shard.")
