"""The data over which curvature is averaged: one batch, a list of batches or a loader."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ttq_plugin.errors import InputError
from ttq_plugin.support import inputs

Batches = Iterable[Any]
"""Pairs (x, y), or a single pair; x may be tensors nested in any way, see ``ttq_plugin.support.inputs``."""


def as_batches(batches: Batches, *, keep: bool) -> Iterable[Any]:
    """Batches to pass over; a single pair of tensors (x, y) is one batch.

    Args:
        batches: Pairs (x, y), or one pair whose x is a tensor.
        keep: Whether they are passed over more than once. What is not a list or tuple is then read into memory: a
            second pass over a shuffling loader would give other batches, and none over an iterator.

    Returns:
        Something that gives the batches.

    Raises:
        InputError: If it gives no batches, or is a data set, which gives samples.
    """
    if isinstance(batches, (tuple, list)) and len(batches) == 2 and _is_one_pair(*batches):
        return [tuple(batches)]
    if isinstance(batches, Dataset) and not isinstance(batches, IterableDataset):
        raise InputError(
            f"`batches` must give batches, got a data set ({type(batches).__name__}), which gives single samples: "
            "wrap it in a torch.utils.data.DataLoader."
        )
    if isinstance(batches, Tensor) or not (hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")):
        raise InputError(
            f"`batches` must be a pair (x, y), a list of pairs or a loader, got a {type(batches).__name__}: pass one."
        )
    return list(batches) if keep and not isinstance(batches, (tuple, list)) else batches


def checked(batch: Any, index: int, device: torch.device) -> tuple[Any, Any]:
    """One batch as (x, y).

    Args:
        batch: What the loader gave.
        index: Its number, for the message.
        device: The model's device.

    Returns:
        x, tensors (batch, ...) nested in any way, and y, which may be anything.

    Raises:
        InputError: If it is not a pair, x has no samples, or a tensor of x or y is on another device.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not inputs.tensors(batch[0]):
        raise InputError(
            f"Each batch must be a pair (x, y) with a tensor x, got {type(batch).__name__} as batch {index}: "
            "let the loader give (input, target)."
        )
    x, y = batch
    if not any(tensor.dim() for tensor in inputs.tensors(x)) or inputs.batch_size(x) == 0:
        came = tuple(x.shape) if isinstance(x, Tensor) else inputs.kind(x)
        raise InputError(
            f"x must have the shape (batch, ...) with at least one sample, got {came} in batch {index}: "
            "leave empty batches out."
        )
    for name, value in (("x", x), ("y", y)):
        for tensor in inputs.tensors(value):
            if tensor.device != device:
                raise InputError(
                    f"Batches must lie on the model's device {device}, got {name} of batch {index} on "
                    f"{tensor.device}: move it with .to({str(device)!r})."
                )
    return x, y


def _is_one_pair(x: Any, y: Any) -> bool:
    """Whether these two are inputs and targets of one batch, and not two batches."""
    return isinstance(x, Tensor | Mapping) or (isinstance(x, tuple) and isinstance(y, Tensor))
