"""Resolves names of layers in config lists: each module has one name, and every name must exist."""

from __future__ import annotations

import re
from typing import Any

from nni.compression.base.config import select_modules_by_config
from torch import nn

from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter.layers.wrappable import check_known

_SELECTING = ("op_names", "op_types", "op_names_re", "exclude_op_names", "exclude_op_types", "exclude_op_names_re")


def first_names(model: nn.Module) -> dict[str, str]:
    """Every name of every module of a model, with the first name of the same module.

    Args:
        model: The model, in which a module may have several names.

    Returns:
        Name -> first name.
    """
    first = {module: name for name, module in model.named_modules()}
    return {name: first[module] for name, module in model.named_modules(remove_duplicate=False)}


def resolve(model: nn.Module, config: dict[str, Any]) -> dict[str, Any]:
    """A config that selects what NNI would select, by ``op_names`` alone, each module once by its first name.

    NNI takes a module with two names for two modules, wraps it twice, and cannot find a second name again.

    Args:
        model: The model, not wrapped.
        config: An entry in NNI's format; not changed.

    Returns:
        A copy, whose modules are in the model's order. A module that is excluded by one of its names is excluded.

    Raises:
        InputError: For a name that the model does not have, a type that neither it nor torch.nn has, or a pattern that
            excludes nothing or is no regular expression.
    """
    first = first_names(model)
    _check_names(model, config)
    wanted = {key: value for key, value in config.items() if not key.startswith("exclude_")}
    selected = {first[name] for name in select_modules_by_config(model, wanted)[0]}
    selected -= {first[name] for name in first if _excluded(model, config, name)}
    resolved = {key: value for key, value in config.items() if key not in _SELECTING}
    resolved["op_names"] = [name for name in dict.fromkeys(first.values()) if name in selected]
    if "fuse_names" in config:
        resolved["fuse_names"] = [tuple(first.get(name, name) for name in names) for names in config["fuse_names"]]
    return resolved


def check_pattern(model: nn.Module, pattern: str) -> None:
    """Check that a regular expression matches the name of some module, as NNI matches them.

    Args:
        model: The model.
        pattern: The pattern of ``op_names_re`` or ``exclude_op_names_re``.

    Raises:
        InputError: If it matches none, or is no regular expression.
    """
    expression = _compiled(pattern)
    if not any(expression.match(name) for name, _ in model.named_modules(remove_duplicate=False)):
        raise InputError(f"config_list has the pattern {pattern!r}, which matches no layer of the model; correct it.")


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"config_list has {pattern!r}, which is not a regular expression ({error}).") from None


def _check_names(model: nn.Module, config: dict[str, Any]) -> None:
    check_known(model, [*(config.get("op_names") or ()), *config.get("exclude_op_names", ())])
    types = {type(module).__name__ for module in model.modules()}
    for kind in (*(config.get("op_types") or ()), *config.get("exclude_op_types", ())):
        if kind not in types and not isinstance(getattr(nn, kind, None), type):
            raise InputError(
                f"config_list asks for layers of the type {kind!r}, which neither the model nor torch.nn has; "
                f"the model's types are {', '.join(sorted(types))}."
            )
    for pattern in config.get("op_names_re") or ():
        _compiled(pattern)
    for pattern in config.get("exclude_op_names_re", ()):
        check_pattern(model, pattern)


def _excluded(model: nn.Module, config: dict[str, Any], name: str) -> bool:
    return (
        name in config.get("exclude_op_names", ())
        or type(model.get_submodule(name)).__name__ in config.get("exclude_op_types", ())
        or any(re.match(pattern, name) for pattern in config.get("exclude_op_names_re", ()))
    )
