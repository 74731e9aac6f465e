"""Which layers NNI can wrap so that their ternary weight is the one that is used, and what to do about the others."""

from __future__ import annotations

from types import FunctionType

from nni.compression.base.setting import PruningSetting, QuantizationSetting
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from ttq_plugin.core.model.matrices import KINDS, layouts, matrix_name, uses_its_weight
from ttq_plugin.errors import InputError

ELSEWHERE = "use ttq_plugin.ternarize or ttq compress, which take it, or leave it out"
"""What to do with a layer that NNI cannot wrap."""


def wrappable(model: nn.Module) -> list[str]:
    """Names of the model's layers that could be ternary through NNI."""
    return [name for name, module in model.named_modules() if uses_its_weight(module)]


def check_wrappable(name: str, module: nn.Module) -> None:
    """Check that NNI can wrap a selected layer.

    Args:
        name: The layer's name, for messages.
        module: The layer.

    Raises:
        InputError: If it cannot; the message says what can.
    """
    kind = type(module).__name__
    if isinstance(module, NonDynamicallyQuantizableLinear):
        raise InputError(
            f"config_list selects {name!r}, a projection of nn.MultiheadAttention, which reads its weights without "
            f"calling a module, where NNI cannot reach them; {ELSEWHERE}."
        )
    if not uses_its_weight(module):
        if layouts(module):
            raise InputError(
                f"config_list selects {name!r}, of the class {kind}, which has several weight matrices that NNI cannot "
                f"wrap; {ELSEWHERE}."
            )
        raise InputError(f"config_list selects {name!r}, of the class {kind}; only {KINDS} can be ternary.")
    if isinstance(vars(module).get("forward"), FunctionType):
        raise InputError(
            f"config_list selects {name!r}, whose forward was replaced by a function that is not bound to the layer, "
            "so that a copy would compute with this layer's weights; set it as types.MethodType(function, layer), or "
            "leave the layer out."
        )
    if parametrize.is_parametrized(module) or module._parameters.get("weight") is None:
        raise InputError(
            f"config_list selects {name!r}, whose weight is computed from other tensors (parametrized, pruned or "
            "normalised by a hook); undo that first, or leave it out."
        )


def check_known(model: nn.Module, names: list[str]) -> None:
    """Check that the layers that a config list names exist.

    Args:
        model: The model.
        names: The names, as in the config list.

    Raises:
        InputError: If one does not exist; the message distinguishes a matrix inside a layer from an unknown name.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        if name in modules:
            continue
        path, _, key = name.rpartition(".")
        if path in modules and key in layouts(modules[path]) and matrix_name(path, key) == name:
            raise InputError(
                f"config_list names {name!r}, one of several weight matrices of {path!r}, which NNI cannot wrap; "
                f"{ELSEWHERE}."
            )
        raise InputError(
            f"config_list names the layer {name!r}, which the model does not have; "
            f"its layers are {', '.join(wrappable(model))}."
        )


def register_class(module: nn.Module) -> None:
    """Let NNI treat a layer of a class that it does not know, such as a subclass or Hugging Face's, as linear."""
    for settings in (QuantizationSetting, PruningSetting):
        settings.registry.setdefault(type(module).__name__, settings.registry["Linear"])
