"""Describes the machine for measurements and reports."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def environment(device: str) -> dict[str, Any]:
    """The machine and the versions that decide a result's last digits and its times."""
    cpu = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    convolutions = getattr(torch.backends.cudnn, "conv", None)
    if gpu and getattr(convolutions, "fp32_precision", None) == "tf32":  # torch's default: 10 bits of mantissa
        gpu += ", convolutions in TF32"
    packages = {name: version(name) for name in ("ttq-plugin", "torch", "nni", "numpy", "scipy", "scikit-learn")}
    return {"processor": cpu, "cores": os.cpu_count(), "gpu": gpu, "python": platform.python_version(), **packages}
