"""Quantities that only a finished model is measured for, because a file must be written or a clock read."""

from __future__ import annotations

import tempfile
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ttq_plugin.errors import InputError
from ttq_plugin.search.objectives import DISK, LATENCY
from ttq_plugin.search.space import Space


def check_measurable(space: Space) -> None:
    """Check that this installation can measure what the space asks for.

    Args:
        space: what is to be searched.

    Raises:
        InputError: it cannot.
    """
    if (asked := sorted(_asked(space) & LATENCY)) and find_spec("ttq_plugin.deploy.runtime") is None:
        raise InputError(
            f"{asked[0]} is measured on the packed runtime, which this version of ttq_plugin does not have; "
            "search by ec_gain_total or cr_gain_disk instead."
        )


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
        from ttq_plugin.deploy.packed import save_packed

        with tempfile.TemporaryDirectory() as folder:
            found["bits_disk"] = 8.0 * save_packed(model, Path(folder) / "model.safetensors").nbytes
    if asked & LATENCY:
        from ttq_plugin.deploy.runtime import latency

        sample = prepared.validation.x[:1].cpu()
        # The second in the same minute, on the same load of the machine: their ratio is what counts.
        found |= {
            "latency": latency(model.cpu(), sample),
            "latency_fp32": latency(deepcopy(prepared.model).cpu(), sample),
        }
    return found


def _asked(space: Space) -> set[str]:
    return {*space.objectives, *(limit.name for limit in space.limits)}
