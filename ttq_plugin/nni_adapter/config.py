"""Config lists: what NNI would select, checked before the model is touched."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from nni.compression.base.config import default_config_schema, select_modules_by_config, trans_legacy_config_list
from schema import SchemaError
from torch import nn

from ttq_plugin.errors import InputError

LAYER_TYPES = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
"""The layers whose ``weight`` can be ternary."""


def weight_config(model: nn.Module, config_list: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """NNI's config list, checked and narrowed to weights.

    A config without ``target_names`` means the weight here, where NNI would take inputs, outputs and biases too.

    Args:
        model: the model, not wrapped.
        config_list: NNI 3.0's format or its legacy one; not changed.

    Returns:
        A copy whose every entry has ``target_names: ["weight"]``.

    Raises:
        InputError: if the list is malformed, selects no layer, names one that does not exist or cannot be ternary,
            or asks for anything but weights.
    """
    if not isinstance(config_list, (list, tuple)) or not all(isinstance(c, dict) for c in config_list):
        raise InputError(f"config_list must be a list of dicts, got {type(config_list).__name__}.")
    configs: list[dict[str, Any]] = trans_legacy_config_list(deepcopy(list(config_list)))
    selected: dict[str, nn.Module] = {}
    for config in configs:
        config.setdefault("target_names", ["weight"])
        config.setdefault("quant_dtype", "int2")
        _check_schema(config)
        _check_targets(config)
        selected |= _select(model, config)
    if not selected:
        asked = [c.get("op_names") or c.get("op_names_re") or c.get("op_types") for c in configs]
        raise InputError(
            f"config_list selects no layer (it asks for {asked}); "
            f"the model's layers are {', '.join(selectable(model)) or 'none that could be ternary'}."
        )
    for name, module in selected.items():
        if not isinstance(module, LAYER_TYPES):
            kinds = ", ".join(t.__name__ for t in LAYER_TYPES)
            raise InputError(f"config_list selects {name!r}, a {type(module).__name__}; only {kinds} can be ternary.")
    return configs


def selectable(model: nn.Module) -> list[str]:
    """Names of the model's layers that could be ternary."""
    return [name for name, module in model.named_modules() if isinstance(module, LAYER_TYPES)]


def _check_schema(config: dict[str, Any]) -> None:
    try:
        default_config_schema("quantization").validate(config)
    except SchemaError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"config_list entry {config} is not in NNI's format: {reason}.") from None


def _check_targets(config: dict[str, Any]) -> None:
    targets = set(config["target_names"]) | set(config.get("target_settings", {}))
    if others := sorted(targets - {"weight"}):
        raise InputError(
            f"only weights can be ternary, but config_list asks for {', '.join(others)}; "
            'set target_names to ["weight"] and chain NNI\'s QATQuantizer for inputs and outputs.'
        )
    if "weight" not in config["target_names"]:
        raise InputError('config_list has an empty target_names; set it to ["weight"].')


def _select(model: nn.Module, config: dict[str, Any]) -> dict[str, nn.Module]:
    names = dict(model.named_modules(remove_duplicate=False))
    if missing := [n for n in config.get("op_names", []) if n not in names]:
        raise InputError(
            f"config_list names the layer {missing[0]!r}, which the model does not have; "
            f"its layers are {', '.join(selectable(model))}."
        )
    modules, _, _ = select_modules_by_config(model, config)
    return dict(modules)
