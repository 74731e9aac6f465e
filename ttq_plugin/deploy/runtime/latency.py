"""How long a model takes on this machine."""

from __future__ import annotations

import time
from typing import Any

from torch import nn

from ttq_plugin.deploy.runtime.runtime import TernaryRuntime
from ttq_plugin.errors import InputError
from ttq_plugin.support.arguments import check_types


def latency(model: nn.Module, example_input: Any, *, turns: int = 30) -> float:
    """Median seconds that a batch takes in a ``TernaryRuntime`` without onnxruntime, on one thread.

    Args:
        model: The model, in evaluation mode.
        example_input: Inputs (batch, ...), as for ``TernaryRuntime``.
        turns: Calls that are timed.

    Returns:
        Seconds.

    Raises:
        InputError: If ``turns`` is less than 1, or as for ``TernaryRuntime``.

    Examples:
        >>> import torch
        >>> from ttq_plugin import latency
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU()).eval()
        >>> 0 < latency(model, torch.randn(1, 16), turns=3) < 1
        True
    """
    check_types(latency, locals())
    if turns < 1:
        raise InputError(f"turns must be at least 1, got {turns}.")
    runtime = TernaryRuntime(model, example_input, onnxruntime=False)
    runtime(example_input)
    times = []
    for _ in range(turns):
        started = time.perf_counter()
        runtime(example_input)
        times.append(time.perf_counter() - started)
    return sorted(times)[turns // 2]
