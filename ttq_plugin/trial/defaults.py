"""Numbers of a compression that nobody asked for otherwise; the command line and the Python functions share them."""

from __future__ import annotations

COMPRESSION: dict[str, float] = {
    "lr": 2e-3,
    "lr_scale": 1e-3,
    "lr_threshold": 1e-3,
    "epochs": 30,
    "share": 1.0,
}
"""By the names that ``ttq_plugin.trial.settings.Settings`` gives them."""
