"""Quantities that only a finished model is measured for, because a file must be written or a clock read."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ttq_plugin.search.space.objectives import DISK, LATENCY
from ttq_plugin.search.space.space import Space
from ttq_plugin.support.inputs import to_device


def measured(space: Space, model: Any, prepared: Any) -> dict[str, float]:
    """What the space asks for and only measuring can tell.

    Args:
        space: what is searched.
        model: the compressed model.
        prepared: what the trials share: its full-precision model and validation split.

    Returns:
        `bits_disk`, or `latency` and `latency_fp32` (one sample, on the packed runtime), where they are an objective or
        limited; else nothing.
    """
    asked = _asked(space)
    found: dict[str, float] = {}
    if asked & DISK:
        from ttq_plugin.deploy.file.packed import save_packed

        with tempfile.TemporaryDirectory() as folder:
            found["bits_disk"] = 8.0 * save_packed(model, Path(folder) / "model.safetensors").nbytes
    if asked & LATENCY:
        from ttq_plugin.core.model.copying import copied
        from ttq_plugin.deploy.runtime.latency import latency

        sample = to_device(prepared.validation.head(1).x, "cpu")
        # The second in the same minute, on the same load of the machine: their ratio is what counts.
        found |= {
            "latency": latency(model.cpu(), sample),
            "latency_fp32": latency(copied(prepared.model).cpu(), sample),
        }
    return found


def _asked(space: Space) -> set[str]:
    return {*space.objectives, *(limit.name for limit in space.limits)}
