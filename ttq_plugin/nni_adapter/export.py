"""Exports the compressed model without NNI: the weights that the wrapped layers compute with, in a plain copy."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from nni.compression.base.target_space import TargetType
from nni.compression.base.wrapper import ModuleWrapper
from torch import Tensor, nn

from ttq_plugin.core.model.copying import copied
from ttq_plugin.nni_adapter.layers.folding import folded, norm_of, plain_bias


def plain_copy(model: nn.Module, known: Mapping[str, ModuleWrapper], order: Mapping[str, list[str]]) -> nn.Module:
    """A deep copy without wrappers that computes what the wrapped model does in eval mode, activations aside.

    Ternary weights, pruned weights and folded BatchNorms are written into the copy. What NNI's QATQuantizer does to
    inputs and outputs is not: that is in its calibration config.

    Args:
        model: The model, wrapped or not, by whichever compressors; left as it was.
        known: The compressor's own wrappers by layer name, for a model that is not wrapped.
        order: The order of a layer's parameters before it was wrapped, by layer name.

    Returns:
        The copy; without DistributedDataParallel around it.
    """
    active = {n: m._nni_wrapper for n, m in model.named_modules() if "_nni_wrapper" in m._modules}
    wrappers = {**known, **active}
    values = {name: effective(wrapper) for name, wrapper in wrappers.items()}
    for wrapper in active.values():
        wrapper.unwrap()
    try:
        norms = {id(norm_of(w)) for w in wrappers.values()}
        identities = [name for name, module in model.named_modules(remove_duplicate=False) if id(module) in norms]
        copy = copied(model)
    finally:
        for wrapper in active.values():
            wrapper.wrap()
    modules = dict(copy.named_modules(remove_duplicate=False))
    for name, parameters in values.items():
        _write(modules[name], parameters, order.get(name, ["weight", "bias"]))
    for name in identities:
        parent, _, attribute = name.rpartition(".")
        setattr(modules[parent], attribute, nn.Identity())
    return copy.module if isinstance(copy, nn.parallel.DistributedDataParallel) else copy


@torch.no_grad()
def effective(wrapper: ModuleWrapper) -> dict[str, Tensor]:
    """The parameters with which a wrapper's layer computes in eval mode.

    Args:
        wrapper: NNI's wrapper of a layer; not changed.

    Returns:
        Name -> value, as an export would write it.
    """
    spaces = (wrapper.pruning_target_spaces, wrapper.quantization_target_spaces)
    found = {k: v.target for s in spaces for k, v in s.items() if v.type is TargetType.PARAMETER}
    targets: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
    if norm_of(wrapper) is not None:
        bias = targets["bias"] if "bias" in targets else plain_bias(wrapper)
        targets["weight"], targets["bias"] = folded(wrapper, targets["weight"], bias)
    with _unwatched(wrapper):
        # Adding 0 turns the -0.0 of a pruned negative weight into 0.0.
        return {name: value + 0.0 for name, value in wrapper.patch_params(targets).items()}


@contextmanager
def _unwatched(wrapper: ModuleWrapper) -> Any:
    """Detach the functions that follow a wrapper's values in training, which an export must not trigger."""
    functions, wrapper._track_funcs = wrapper._track_funcs, []
    try:
        yield
    finally:
        wrapper._track_funcs = functions


@torch.no_grad()
def _write(module: nn.Module, values: Mapping[str, Tensor], order: list[str]) -> None:
    # NNI leaves the original forward behind as an attribute of the instance; mostly the class has the same one.
    left = module.__dict__.get("forward")
    if isinstance(left, MethodType) and left.__func__ is type(module).forward:
        del module.__dict__["forward"]
    for name, value in values.items():
        if (parameter := module._parameters.get(name)) is None:
            setattr(module, name, nn.Parameter(value))
        else:
            parameter.copy_(value)
    # NNI's unwrapping puts the weight behind the bias; give the state dict its old order back.
    own = module._parameters
    module._parameters = {
        key: own[key] for key in sorted(own, key=lambda k: order.index(k) if k in order else len(order))
    }
