"""The layers whose curvature is asked for, and what is required of them."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ttq_plugin.core.layers import LAYER_TYPES
from ttq_plugin.errors import InputError


def candidate_layers(model: nn.Module, layers: Iterable[str] | None = None) -> dict[str, nn.Module]:
    """The convolutions and linear layers with a trainable weight; frozen ones are skipped, shared weights count once.

    A weight computed from other parameters (`torch.nn.utils.parametrize`) is none of the layer's own: it is skipped.

    Args:
        model: any module.
        layers: names to keep, in the model's order; None keeps all.

    Returns:
        Name -> module, in the model's order.

    Raises:
        InputError: no layer is left, a name is not a candidate, or a weight has half precision or no shape yet.
    """
    seen: set[nn.Parameter] = set()
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if isinstance(module, LAYER_TYPES) and weight is not None and weight.requires_grad and weight not in seen:
            seen.add(weight)
            found[name] = module
    if not found:
        raise InputError(
            "The model must have a convolution or linear layer whose weight requires gradients, got none: "
            "unfreeze the layers to be measured."
        )
    if layers is not None:
        found = _keep(found, list(layers))
    for name, module in found.items():
        weight = module.get_parameter("weight")
        if is_lazy(weight):
            raise InputError(f"Layers must know their shape, got {name!r} without one: run the model once before.")
        if weight.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"Second derivatives need float32 or float64 weights, got {weight.dtype} in layer {name!r}: "
                "call model.float() first."
            )
    return found


def _keep(found: dict[str, nn.Module], names: list[str]) -> dict[str, nn.Module]:
    unknown = [name for name in names if name not in found]
    if unknown or not names:
        raise InputError(
            "`layers` must name convolutions or linear layers with a trainable weight, got "
            f"{', '.join(map(repr, unknown)) or 'an empty list'}; the model has {', '.join(found)}."
        )
    return {name: module for name, module in found.items() if name in names}
