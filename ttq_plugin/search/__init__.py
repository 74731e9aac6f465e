"""Searching: space files, studies and workers on Optuna. `load.load_space` and `runner.run_search` are the ways in.

The package can be called: ``ttq_plugin.search(task, trials=40)`` runs a search and returns its study, see
``ttq_plugin.studies.search``.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import ttq_plugin


class _Callable(types.ModuleType):
    """``ttq_plugin.search`` is a function to its users and a package to Python: both must be one object."""

    def __call__(self, *positional: Any, **named: Any) -> Any:
        """Run a search; see ``ttq_plugin.studies.search``."""
        return ttq_plugin._search(*positional, **named)


sys.modules[__name__].__class__ = _Callable
