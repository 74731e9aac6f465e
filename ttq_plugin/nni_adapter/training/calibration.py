"""Calibration entries of ternary weights: NNI's own can hold one scale, a ternary weight has two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ttq_plugin.core import Params
from ttq_plugin.core.model.state import TernaryState
from ttq_plugin.errors import InputError


def ternary_entry(state: TernaryState, weight: Tensor, quant_scheme: str | None) -> dict[str, Any]:
    """A layer's entry in NNI's calibration config, as detached copies on the CPU."""
    copies: Params = {name: value.detach().cpu().clone() for name, value in state.params.items()}
    positive, negative = state.method.scales(weight, state.params).detach().cpu().clone()
    return {
        "method": state.method.name,
        "scale": positive.clone(),
        "scale_negative": negative.clone(),
        "zero_point": torch.zeros(1),
        "thresholds": copies["thresholds"],
        "alpha": copies["alpha"],
        "tracked_max": positive.clone(),
        "tracked_min": -negative,
        "quant_dtype": "int2",
        "quant_scheme": quant_scheme,
        "quant_bits": 2,
    }


def read_calibration(state: TernaryState, entry: dict[str, Any], name: str) -> Params:
    """The parameters in an entry that ``ternary_entry`` made.

    Args:
        state: The layer's state, which says what must fit; not changed.
        entry: The calibration entry.
        name: The layer's name, for messages.

    Returns:
        Tensors of the shapes that the state has.

    Raises:
        InputError: For a missing key, another method or other shapes.
    """
    if entry.get("method") != state.method.name:
        raise InputError(
            f"{name}: the calibration belongs to the method {entry.get('method')!r}, not {state.method.name!r}."
        )
    for key in ("scale", "scale_negative", "thresholds", "alpha"):
        if not isinstance(entry.get(key), Tensor):
            raise InputError(f"{name}: calibration lacks {key!r}; pass what get_calibration_config returned.")
    stacked = torch.stack((entry["scale"], entry["scale_negative"]))
    params = {"scales": stacked, "thresholds": entry["thresholds"], "alpha": entry["alpha"]}
    for key, value in params.items():
        if value.shape != state.params[key].shape or not bool(torch.isfinite(value).all()):
            raise InputError(
                f"{name}: calibrated {key} must be finite and of shape {tuple(state.params[key].shape)}, "
                f"got shape {tuple(value.shape)}."
            )
    _check_range(state, params, name)
    return params


def _check_range(state: TernaryState, params: Params, name: str) -> None:
    """Refuse numbers that no training can have left."""
    if bool((params["scales"] < 0).any()):
        raise InputError(
            f"{name}: calibrated scales must not be negative, got {params['scales'].min().item():g}; scale_negative "
            f"is given as a magnitude, too."
        )
    if not bool((params["alpha"] > 0).all()):
        raise InputError(f"{name}: calibrated alpha must be positive, got {params['alpha'].min().item():g}.")
    rows = params["thresholds"].reshape(len(params["thresholds"]), -1).T.tolist()
    for numbers in rows if state.method.rule.names else ():
        try:
            state.method.rule.check(dict(zip(state.method.rule.names, numbers, strict=True)))
        except InputError as error:
            raise InputError(f"{name}: calibrated {error}") from None
