"""Numbers of a compression that nobody asked for otherwise; the command line and the Python functions share them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttq_plugin.methods import LR_THRESHOLD

COMPRESSION: dict[str, float] = {
    "lr": 2e-3,
    "lr_scale": 1e-3,
    "lr_threshold": 1e-3,
    "epochs": 30,
    "share": 1.0,
}
"""By the names that ``ttq_plugin.trial.settings.Settings`` gives them."""


def defaults(given: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that nobody asked for otherwise.

    Args:
        given: Those that somebody did, by their names.

    Returns:
        ``COMPRESSION``, with the slower thresholds of a prescribed share of zeros where ``given`` has one.
    """
    prescribed = any(given.get(name) is not None for name in ("zeros", "max_bytes", "max_bits", "max_energy"))
    return COMPRESSION | ({"lr_threshold": LR_THRESHOLD} if prescribed else {})
