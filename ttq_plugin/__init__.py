"""Trained ternary quantisation (TTQ, aTTQ, pTTQ) for NNI, as quantizers that search, measure and report.

Public names are imported on first use, so that ``import ttq_plugin`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "ATTQPruner": "ttq_plugin.nni_adapter",
    "ATTQQuantizer": "ttq_plugin.nni_adapter",
    "BinaryQuantizer": "ttq_plugin.nni_adapter",
    "PTTQPruner": "ttq_plugin.nni_adapter",
    "TWNQuantizer": "ttq_plugin.nni_adapter",
    "TTQPruner": "ttq_plugin.nni_adapter",
    "PTTQQuantizer": "ttq_plugin.nni_adapter",
    "TTQQuantizer": "ttq_plugin.nni_adapter",
    "register": "ttq_plugin.nni_adapter",
    "METHODS": "ttq_plugin.core",
    "bake": "ttq_plugin.core",
    "parameter_groups": "ttq_plugin.core",
    "project_": "ttq_plugin.core",
    "ternarize": "ttq_plugin.core",
    "EnergyModel": "ttq_plugin.measures",
    "measure": "ttq_plugin.measures",
    "Budget": "ttq_plugin.curvature",
    "generate_config": "ttq_plugin.curvature",
    "compress_chain": "ttq_plugin.nni_adapter",
    "TernaryRuntime": "ttq_plugin.deploy.runtime.runtime",
    "integerize": "ttq_plugin.deploy.integer.module",
    "latency": "ttq_plugin.deploy.runtime.latency",
    "load_packed": "ttq_plugin.deploy.file.packed",
    "packed_info": "ttq_plugin.deploy.file.packed",
    "save_packed": "ttq_plugin.deploy.file.packed",
    "InputError": "ttq_plugin.errors",
    "TernaryObjective": "ttq_plugin.objective",
    "compress": "ttq_plugin.api",
    "train": "ttq_plugin.api",
}

__all__ = ["__version__", *sorted([*_HOMES, "search"])]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name == "search":  # a package that can be called
        return importlib.import_module("ttq_plugin.search")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _search(*positional: Any, **named: Any) -> Any:
    """The call ``ttq_plugin.search(...)``, defined here because the package ``search`` imports nothing above it."""
    return importlib.import_module("ttq_plugin.studies").search(*positional, **named)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
