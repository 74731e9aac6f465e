"""Samples with their targets: in memory, or read one at a time from a torch Dataset that may be larger than it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.memory import Batch, Split, seeded_order
from ttq_plugin.tasks.streams import Stream

__all__ = ["Batch", "Samples", "Split", "Stream", "as_samples", "seeded_order"]

Samples = Split | Stream


def as_samples(value: Any, name: str, collate: Callable[[list[Any]], Any] | None, workers: int) -> Samples:
    """What a task's ``load`` gave for a split, as samples.

    Args:
        value: a Split, or a map-style Dataset.
        name: of the split, for messages.
        collate: for a Dataset.
        workers: for a Dataset.

    Returns:
        The samples.

    Raises:
        InputError: if it is neither; the message says what to give instead.
    """
    if isinstance(value, Split | Stream):
        return value
    if isinstance(value, DataLoader):
        raise InputError(
            f"The {name} split must be a Split or a Dataset, got a DataLoader; give its dataset, and its collate_fn "
            "and num_workers as Data(..., collate=..., workers=...)."
        )
    if isinstance(value, IterableDataset) or not (hasattr(value, "__getitem__") and hasattr(value, "__len__")):
        raise InputError(
            f"The {name} split must be a Split(x, y) or a map-style Dataset with __len__ and __getitem__, got "
            f"{type(value).__name__}; read it into a Split, or give it an index."
        )
    if isinstance(value, tuple | list | Mapping | Tensor):
        raise InputError(f"The {name} split must be a Split(x, y) or a Dataset, got {type(value).__name__}; wrap it.")
    return Stream(value, collate, workers)
