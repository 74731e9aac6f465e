"""Checks config lists, and what NNI would select by them, before the model is touched."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from nni.compression.base.config import default_config_schema, trans_legacy_config_list
from schema import SchemaError
from torch import nn

from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter.layers.folding import check_folding
from ttq_plugin.nni_adapter.layers.names import check_pattern, resolve
from ttq_plugin.nni_adapter.layers.wrappable import check_wrappable, register_class, wrappable


def weight_config(model: nn.Module, config_list: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """NNI's config list, checked and narrowed to weights.

    A config without ``target_names`` means the weight here, where NNI would take inputs, outputs and biases too. The
    weight's ``quant_dtype`` is int2 whatever the config says, so that one written for another quantizer's int8 works.

    Args:
        model: The model, not wrapped.
        config_list: NNI 3.0's format or its legacy one; not changed.

    Returns:
        A copy whose every entry has ``target_names: ["weight"]`` and ``quant_dtype: int2``.

    Raises:
        InputError: If the list is malformed, selects no layer, names one that does not exist or cannot be ternary,
            asks for anything but weights, or folds what cannot be folded.
    """
    configs = modern(model, config_list)
    selected: dict[str, nn.Module] = {}
    for index, config in enumerate(configs):
        config.setdefault("target_names", ["weight"])
        config.setdefault("quant_dtype", "int2")
        _check_schema(config)
        _check_targets(config)
        for setting in (config, config.get("target_settings", {}).get("weight", {})):
            _set_int2(setting)
        configs[index] = config = resolve(model, config)
        names = config["op_names"]
        check_folding(dict(model.named_modules()), config.get("fuse_names", ()), set(names))
        selected |= {name: model.get_submodule(name) for name in names}
    if not selected:
        asked: list[Any] = [next((c[key] for key in _SELECTING if c.get(key)), []) for c in config_list]
        raise InputError(
            f"config_list selects no layer (it asks for {asked}); "
            f"the model's layers are {', '.join(wrappable(model)) or 'none that could be ternary'}."
        )
    for name, module in selected.items():
        check_wrappable(name, module)
    for module in selected.values():
        register_class(module)
    for pattern in (pattern for config in config_list for pattern in config.get("op_names_re") or ()):
        check_pattern(model, pattern)
    return configs


def modern(model: nn.Module, config_list: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A config list in NNI 3.0's format, whichever it has: entry by entry, so that lists may mix them.

    NNI translates a list only if its first entry is an old one, takes ``exclude: False`` for an exclusion, and where an
    exclusion names layers and types it excludes more than those layers of those types.

    Args:
        model: The model, not wrapped.
        config_list: A config list in NNI 3.0's format or its legacy one; it is not changed.

    Returns:
        A copy, without the entries that exclude layers; the others have their names in ``exclude_op_names``.

    Raises:
        InputError: If it is no list of dicts, or an entry excludes layers that the model does not have.
    """
    if not isinstance(config_list, (list, tuple)) or not all(isinstance(c, dict) for c in config_list):
        raise InputError(f"config_list must be a list of dicts, got {type(config_list).__name__}.")
    kept, excluded = [], []
    for entry in deepcopy(list(config_list)):
        if "op_partial_names" in entry:
            entry["op_names_re"] = [f".*{re.escape(part)}.*" for part in entry.pop("op_partial_names")]
        if _excludes(entry):
            excluded += resolve(model, {key: entry[key] for key in _SELECTING if key in entry})["op_names"]
        else:
            kept += trans_legacy_config_list([entry])
    for entry in kept if excluded else ():
        entry["exclude_op_names"] = [*entry.get("exclude_op_names", ()), *excluded]
    return kept


def _excludes(entry: dict[str, Any]) -> bool:
    """Whether an entry excludes the layers that it selects; it no longer says so afterwards."""
    said = entry.pop("exclude", False)
    if not isinstance(said, bool) or (said and not any(entry.get(key) for key in _SELECTING)):
        raise InputError(
            f"exclude must be True in an entry with op_names, op_types or op_names_re, got {said!r} with "
            f"{', '.join(entry) or 'nothing else'}."
        )
    return said


_SELECTING = ("op_names", "op_names_re", "op_types")
"""Keys by which an entry selects layers."""


def _set_int2(setting: dict[str, Any]) -> None:
    dtype = setting.get("quant_dtype", "int2")
    if not re.fullmatch(r"u?int[1-9]\d*", str(dtype)):
        raise InputError(f"quant_dtype must be int2 (or another quantizer's, such as int8), got {dtype!r}.")
    if "quant_dtype" in setting:
        setting["quant_dtype"] = "int2"


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
