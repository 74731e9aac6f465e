"""BatchNorm with the statistics of the training, folded with a layer's bias into a factor and a term a channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

STATISTICS = ("weight", "bias", "running_mean", "running_var")
"""The parts of a BatchNorm, besides ``eps``."""


def fixed(given: Mapping[str, Any]) -> bool:
    """Whether a BatchNorm's arguments make it the same function for every batch."""
    return given["running_mean"] is not None and given["running_var"] is not None and not given["training"]


def folded(bias: Tensor | None, norm: Mapping[str, Any] | None, channels: int) -> tuple[Tensor, Tensor]:
    """Factor and term of each channel: ``gain = gamma / sqrt(var + eps)``, ``shift = (bias - mean) gain + beta``.

    Args:
        bias: Bias of the layer, shape (channels,), or None.
        norm: The BatchNorm after it: ``STATISTICS`` as tensors (channels,) or None, and ``eps``; None for no BatchNorm.
        channels: Their number.

    Returns:
        Two tensors (channels,) in float64.
    """

    def wide(tensor: Tensor | None, default: float) -> Tensor:
        found = torch.tensor(default, dtype=torch.float64) if tensor is None else tensor.detach().double()
        return found.expand(channels)

    if norm is None:
        return wide(None, 1), wide(bias, 0)
    gain = wide(norm["weight"], 1) / (wide(norm["running_var"], 1) + norm["eps"]).sqrt()
    return gain, (wide(bias, 0) - wide(norm["running_mean"], 0)) * gain + wide(norm["bias"], 0)


def folded_step(tensors: Mapping[str, Tensor], more: Mapping[str, Any], channels: int) -> tuple[Tensor, Tensor]:
    """Factor and term of each output channel of a step's layer.

    Args:
        tensors: Constants by name.
        more: The layer's, with names of constants: ``bias``, ``norm``.
        channels: Their number.

    Returns:
        As of ``folded``.
    """
    norm = more["norm"]
    if norm:
        norm = {**norm, **{part: tensors[norm[part]] if norm[part] else None for part in STATISTICS}}
    return folded(tensors[more["bias"]] if more["bias"] else None, norm or None, channels)
