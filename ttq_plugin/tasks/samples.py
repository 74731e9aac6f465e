"""Samples with their targets: in memory, or read one at a time from a torch Dataset that may be larger than it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ttq_plugin.errors import InputError
from ttq_plugin.support import inputs
from ttq_plugin.tasks.memory import Batch, Split, seeded_order
from ttq_plugin.tasks.streams import Stream

__all__ = ["Batch", "Samples", "Split", "Stream", "as_samples", "check_lengths", "seeded_order"]

Samples = Split | Stream


def as_samples(value: Any, name: str, collate: Callable[[list[Any]], Any] | None, workers: int) -> Samples:
    """What a task's ``load`` gave for a split, as samples.

    Args:
        value: A Split, or a map-style Dataset.
        name: Name of the split, for messages.
        collate: The function that makes a batch of a Dataset's samples.
        workers: Number of processes that read a Dataset ahead.

    Returns:
        The samples.

    Raises:
        InputError: If it is neither; the message says what to give instead.
    """
    if isinstance(value, Split) and name != "test":  # which is not checked before it is used
        check_lengths(name, value)
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
    return Stream(value, collate, workers, name=name)


def check_lengths(name: str, samples: Split) -> None:
    """Check that there is one target and one group per sample; the values are checked later, before a training.

    Args:
        name: of the split.
        samples: its samples.

    Raises:
        InputError: if lengths differ, or x or y holds no tensor.
    """
    for what, tree in (("x", samples.x), ("y", samples.y)):
        if not [tensor for tensor in inputs.tensors(tree) if tensor.dim()]:
            raise InputError(
                f"{what} of the {name} split must be a tensor (samples, ...) or a nest of such, "
                f"got {inputs.kind(tree)}."
            )
        try:
            inputs.length(tree)
        except InputError as error:
            raise InputError(f"{what} of the {name} split: {error}") from None
    if (rows := inputs.length(samples.x)) != len(samples):
        raise InputError(f"x and y of the {name} split must have equally many samples, got {rows} and {len(samples)}.")
    groups = samples.group_ids
    if groups is not None and len(groups) != len(samples):
        raise InputError(
            f"groups of the {name} split must name one group per sample, got {len(groups)} for {len(samples)}."
        )
