"""Changes to a model's forward pass during training only: precision and dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ttq_plugin.errors import InputError
from ttq_plugin.support import inputs

Step = Callable[[Any, Any], Tensor]
"""``((x, labels), model) -> loss``."""

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
"""Under ``bfloat16``, torch's autocast: products in bfloat16; parameters, gradients of them and the loss in float32."""


def at_precision(step: Step, precision: str) -> Step:
    """The training step with its forward pass at that precision.

    Args:
        step: What it does with batch and model; it may only call the model.
        precision: A key of ``PRECISIONS``.

    Returns:
        The step; its outputs are float32 whatever the precision.
    """
    dtype = PRECISIONS[precision]
    if dtype is None:
        return step

    def stepped(batch: Any, net: Any) -> Tensor:
        def forward(*positional: Any, **named: Any) -> Any:
            with torch.autocast(inputs.first_tensor((positional, named)).device.type, dtype):
                outputs = net(*positional, **named)
            return inputs.map_tensors(lambda t: t.float() if t.is_floating_point() else t, outputs)

        return step(batch, forward)

    return stepped


def check_dropout(p: float | None) -> None:
    """Check a probability of dropout; None is allowed.

    Args:
        p: The probability.

    Raises:
        InputError: If it lies outside [0, 1).
    """
    if p is not None and not 0 <= p < 1:
        raise InputError(f"dropout must lie in [0, 1), got {p:g}.")


def set_dropout(model: nn.Module, p: float | None) -> None:
    """Give every dropout of the model the probability ``p``; None leaves them as they are."""
    if p is not None:
        for module in _dropouts(model).values():
            module.p = p


def copy_dropout(source: nn.Module, target: nn.Module) -> None:
    """Give every dropout of ``target`` the probability that its namesake in ``source`` has."""
    own = _dropouts(target)
    for name, module in _dropouts(source).items():
        own[name].p = module.p


def _dropouts(model: nn.Module) -> dict[str, _DropoutNd]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _DropoutNd)}
