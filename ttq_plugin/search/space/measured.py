"""Quantities that are measured only for finished models, because a file must be written or a time measured."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ttq_plugin.search.space.objectives import DISK, FIRMWARE, LATENCY
from ttq_plugin.search.space.space import Space
from ttq_plugin.support.inputs import to_device

CALIBRATION = 256
"""Training samples that an integer network's ranges are found on."""


def measured(space: Space, model: Any, prepared: Any) -> dict[str, float]:
    """Measure the quantities that the space needs and that only a finished model has.

    Args:
        space: What is searched.
        model: The compressed model.
        prepared: What the trials share: its full-precision model and validation split.

    Returns:
        `bits_disk`; or `latency` and `latency_fp32` (one sample, on the packed runtime); or `flash` and `ram` of the
        integer C code with `flash_fp32` (4 bytes a parameter) and `ram_fp32` (of the float C code), where they are an
        objective or limited; else nothing.
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
    if asked & FIRMWARE:
        found |= _firmware(model.cpu(), prepared)
    return found


def _firmware(model: Any, prepared: Any) -> dict[str, float]:
    """Bytes of the integer C code and of its float counterpart."""
    from ttq_plugin.deploy.c99.export import static_bytes
    from ttq_plugin.deploy.c_int8.export import footprint
    from ttq_plugin.deploy.integer.module import integerize

    samples = to_device(prepared.train.head(CALIBRATION).x, "cpu")
    found = footprint(integerize(model, samples))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {**found, "flash_fp32": 4.0 * parameters, "ram_fp32": float(static_bytes(model, samples))}


def _asked(space: Space) -> set[str]:
    return {*space.objectives, *(limit.name for limit in space.limits)}
