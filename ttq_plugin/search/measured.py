"""Quantities that only a finished model is measured for, because a file must be written or a clock read."""

from __future__ import annotations

import tempfile
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
    if asked := sorted(_asked(space) & LATENCY):
        raise InputError(
            f"{asked[0]} is measured on the packed runtime, which this version of ttq_plugin does not have; "
            "search by ec_gain_total or cr_gain_disk instead."
        )


def measured(space: Space, model: Any) -> dict[str, float]:
    """What the space asks for and only measuring can tell.

    Args:
        space: what is searched.
        model: the compressed model.

    Returns:
        `bits_disk` where the size of the packed file is an objective or limited; else nothing.
    """
    if not _asked(space) & DISK:
        return {}
    from ttq_plugin.deploy.packed import save_packed

    with tempfile.TemporaryDirectory() as folder:
        return {"bits_disk": 8.0 * save_packed(model, Path(folder) / "model.safetensors").nbytes}


def _asked(space: Space) -> set[str]:
    return {*space.objectives, *(limit.name for limit in space.limits)}
