"""Which layers can be ternary, and along which dimension their channels are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ttq_plugin.core.model.matrices import CONVOLUTIONS, EMBEDDINGS, TRANSPOSED, Layout, layouts
from ttq_plugin.errors import InputError
from ttq_plugin.support.arguments import shown

LAYER_TYPES = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
"""The types of layers whose curvature is measured by default."""


def channel_of(module: nn.Module, granularity: object) -> int | None:
    """The dimension of a layer's ``weight`` that has scales and thresholds of its own.

    Args:
        module: A layer with one matrix, its ``weight``.
        granularity: ``default`` for one pair per layer, ``out_channel`` for one per output channel.

    Returns:
        None, or the dimension of the output channels: 0, or 1 if the weight is stored transposed.

    Raises:
        InputError: For another granularity, or a grouped transposed convolution, whose dimension 1 holds the output
            channels of one group only.
    """  # noqa: DOC502 - raised by what it calls
    return matrix_channel("", layouts(module).get("weight", Layout()), granularity)


def matrix_channel(name: str, layout: Layout, granularity: object) -> int | None:
    """The dimension of a matrix that has scales and thresholds of its own.

    Args:
        name: The matrix's name, for messages.
        layout: Which of its dimensions are channels.
        granularity: ``default`` for one pair per matrix, ``out_channel`` for one per output channel.

    Returns:
        None, or the output channel's dimension.

    Raises:
        InputError: For another granularity, or a matrix of which no dimension holds all output channels.
    """
    if granularity in ("default", None):
        return None
    if granularity != "out_channel":
        raise InputError(f"granularity must be default or out_channel for ternary weights, got {shown(granularity)}.")
    if layout.channel is None:
        raise InputError(
            f"{name + ': ' if name else ''}granularity out_channel is not possible for a grouped transposed "
            "convolution; use default."
        )
    return layout.channel


def tensor_of(module: nn.Module, key: str) -> Tensor:
    """A module's parameter or buffer, or the result of its parametrization, by the name of its attribute."""
    value: Tensor = getattr(module, key)
    return value


def check_layers(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Check that each selected layer has a weight of its own that can be trained.

    Args:
        model: The whole model, with its plain weights.
        modules: The selected layers, by name.

    Raises:
        InputError: For a weight in half precision, without values (meta device, lazy layer), frozen, or shared by two
            layers.
    """
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(f"{name}.{key}")
    for name, module in modules.items():
        weight = tensor_of(module, "weight")
        check_parameter(name, weight)
        check_embedding(name, module)
        if len(shared := owners.get(id(weight), [])) > 1:
            raise InputError(
                f"{name}: its weight is shared by {' and '.join(shared)}; untie them, leave the layer out, or use "
                "ttq_plugin.ternarize, which takes tied weights."
            )


def check_parameter(name: str, weight: Tensor) -> None:
    """Check that a weight can be trained.

    Args:
        name: What it is called, for messages.
        weight: The plain weight.

    Raises:
        InputError: For a weight in half precision, without values (meta device, lazy layer), or frozen.
    """
    if weight.is_meta or nn.parameter.is_lazy(weight):
        raise InputError(f"{name}: the weight holds no values yet; initialise or load the model first.")
    if weight.dtype in (torch.float16, torch.bfloat16):
        raise InputError(
            f"{name}: a {str(weight.dtype).removeprefix('torch.')} weight loses small updates in training; keep "
            "the model in float32 and use automatic mixed precision."
        )
    if not weight.requires_grad:
        raise InputError(f"{name}: the weight is frozen (requires_grad is False); unfreeze it, or leave the layer out.")


def check_embedding(name: str, module: nn.Module) -> None:
    """Check that an embedding, if the module is one, leaves its weight as it is and has gradients for all of it.

    Args:
        name: What it is called, for messages.
        module: Any layer.

    Raises:
        InputError: For one that rescales its rows in each pass, or whose gradients are sparse.
    """
    if isinstance(module, EMBEDDINGS) and module.max_norm is not None:
        raise InputError(
            f"{name}: max_norm would rescale ternary rows in each pass; set it to None, or leave the layer out."
        )
    if isinstance(module, EMBEDDINGS) and module.sparse:
        raise InputError(f"{name}: its gradients are sparse, which scales cannot learn from; set sparse to False.")
