"""Imports packages that only some exports need."""

from __future__ import annotations

import importlib
from types import ModuleType

from ttq_plugin.errors import InputError


def need(*names: str) -> tuple[ModuleType, ...]:
    """Import modules of the optional extra ``deploy``.

    Args:
        names: Importable names.

    Returns:
        The modules, in that order.

    Raises:
        InputError: If one is not installed; the message says how to install it.
    """
    try:
        return tuple(importlib.import_module(name) for name in names)
    except ModuleNotFoundError as error:
        raise InputError(
            f"ONNX exports need the package {error.name}, which is not installed; "
            "install what they need with `pip install 'ttq-plugin[deploy]'`."
        ) from None
