"""Default values of a compression, shared by the command line and the Python functions."""

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
"""Default values, by the names in ``ttq_plugin.trial.settings.Settings``."""


def defaults(given: Mapping[str, Any]) -> dict[str, float]:
    """The default values.

    Args:
        given: The values that the user gave, by name.

    Returns:
        ``COMPRESSION``, with the slower thresholds of a prescribed share of zeros where ``given`` has one.
    """
    prescribed = any(given.get(name) is not None for name in ("zeros", "max_bytes", "max_bits", "max_energy"))
    return COMPRESSION | ({"lr_threshold": LR_THRESHOLD} if prescribed else {})
