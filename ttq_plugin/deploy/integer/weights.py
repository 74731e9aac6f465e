"""Converts weights to integer codes and scales."""

from __future__ import annotations

import torch
from torch import Tensor

from ttq_plugin.deploy.integer.arithmetic import HIGHEST
from ttq_plugin.errors import InputError
from ttq_plugin.measures.integer import integer_codes
from ttq_plugin.measures.ternary import codes_of

LARGEST_SUM = (1 << 31) - 1


def check_sums(name: str, weight: Tensor, ternary: bool) -> None:
    """Refuse a matrix whose sums may leave int32.

    Args:
        name: Name of the weight.
        weight: (out, ...).
        ternary: Whether its codes are -1, 0 and 1.

    Raises:
        InputError: If they may.
    """
    fan_in = weight[0].numel()
    if fan_in * 255 * (1 if ternary else HIGHEST) > LARGEST_SUM:
        raise InputError(f"sums of {name} do not fit into 32 bits: {fan_in} products; make the layer narrower.")


def weight_codes(weight: Tensor, ternary: bool) -> tuple[Tensor, list[Tensor]]:
    """Codes of a weight, and their scales.

    Args:
        weight: (out, ...).
        ternary: Whether ternary weights stay so.

    Returns:
        int8 codes of the same shape, and float64 scales a channel: those of positive and negative codes, or one step.
    """
    if ternary and (found := codes_of(weight)) is not None:
        rows = weight.double().reshape(1 if found.smallest_group == weight.numel() else len(weight), -1)
        both = [rows.amax(1).clamp(min=0), (-rows).amax(1).clamp(min=0)]
        return found.values.to(torch.int8), [scale.expand(len(weight)) for scale in both]
    rows = weight.double().reshape(len(weight), -1)
    grid = integer_codes(weight, 8)
    if grid is not None:
        codes = grid.values.to(torch.int8)
        largest = codes.reshape(len(weight), -1).abs().amax(1)
        # On one step a layer, a channel of zeros has none of its own.
        return codes, [rows.abs().amax(1) / largest.clamp(min=1)]
    step = rows.abs().amax(1) / HIGHEST
    step = torch.where(step > 0, step, 1.0)
    codes = torch.round(rows / step[:, None]).clamp(-HIGHEST, HIGHEST).to(torch.int8)
    return codes.reshape(weight.shape), [step]
