"""Checks of a model's tensors before anything is computed, trained or written."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ttq_plugin.errors import InputError


def check_values(model: nn.Module) -> None:
    """Check that every parameter and buffer of a model holds values that can be read.

    Args:
        model: The model, wrapped or not.

    Raises:
        InputError: For a tensor without a shape (of a lazy layer that never ran), without values (on the meta device),
            or with a sparse layout.
    """
    for name, tensor in _tensors(model):
        if is_lazy(tensor):
            raise InputError(f"{name} must have a shape, but its lazy layer has never run; call the model once first.")
        if tensor.is_meta:
            raise InputError(
                f"{name} holds no values yet, because it is on the meta device; initialise or load the model first."
            )
        if tensor.layout is not torch.strided:
            layout = str(tensor.layout).removeprefix("torch.")
            raise InputError(f"{name} must be a dense tensor, got the layout {layout}; call its to_dense() first.")


def check_trainable(model: nn.Module) -> None:
    """Check that a model can be trained: it is a plain module whose tensors can be changed in place.

    Args:
        model: The model, wrapped or not.

    Raises:
        InputError: For a scripted or traced model, and for tensors that cannot be read or written.
    """
    check_values(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "the model must be a plain torch module, got a scripted or traced one; pass the module it was made from."
        )
    for name, tensor in _tensors(model):
        if tensor.is_inference():
            raise InputError(
                f"{name} was created in torch.inference_mode and cannot be trained; create the model outside of it."
            )
    check_written((name, p) for name, p in model.named_parameters() if p.requires_grad)


def check_written(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Check that each value of a tensor has its own place in memory.

    Args:
        tensors: Tensors with their names.

    Raises:
        InputError: For an expanded tensor, which torch refuses to change in place.
    """
    for name, tensor in tensors:
        places = zip(tensor.shape, tensor.stride(), strict=True)
        if tensor.numel() and any(size > 1 and step == 0 for size, step in places):
            raise InputError(
                f"{name} must have a place in memory for each value, got an expanded tensor; clone it first."
            )


def _tensors(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return itertools.chain(model.named_parameters(), model.named_buffers())
