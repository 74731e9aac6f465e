"""Samples in memory, and what they share with those of a Dataset: tensors in any nesting, and hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttq_plugin.support import inputs

Batch = tuple[Any, Any]
"""Inputs and targets of some samples, both of any nesting."""

IN_MEMORY = 500
"""The most samples of a batch that is only scored."""

MOST_VALUES = 1 << 24
"""The most input values of such a batch: pictures come in smaller ones."""


def seeded_order(count: int, generator: torch.Generator | None) -> Tensor:
    """Places of all samples, shuffled if a generator is given."""
    return torch.arange(count) if generator is None else torch.randperm(count, generator=generator)


@dataclass(frozen=True)
class Split:
    """Samples in memory.

    Attributes:
        x: Inputs, whose tensors have the shape (samples, ...). A tuple holds the model's positional arguments, a dict
            its keyword arguments, and anything else is its one argument.
        y: Targets, whose tensors have the shape (samples, ...); class indices are int64.
        groups: The subject, recording or speaker of each sample, as numbers or words, (samples,); None if unknown.

    Examples:
        >>> import torch
        >>> from ttq_plugin.tasks.task import Split
        >>> split = Split(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]), groups=["ann", "ann", "bob", "bob"])
        >>> len(split), split.group_ids.tolist()
        (4, ['ann', 'ann', 'bob', 'bob'])
    """

    x: Any
    y: Any
    groups: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", tensors_of(self.x))
        object.__setattr__(self, "y", tensors_of(self.y))

    def __len__(self) -> int:
        return inputs.batch_size(self.y)

    def to(self, device: str) -> Split:
        """The same samples on ``device``."""
        return Split(inputs.to_device(self.x, device), inputs.to_device(self.y, device), self.groups)

    def take(self, rows: Any) -> Split:
        """The samples at these places.

        Args:
            rows: a slice, or a tensor or list of places.

        Returns:
            Them, with their groups.
        """
        groups = self.group_ids
        chosen = None if groups is None else groups[rows.cpu().numpy() if isinstance(rows, Tensor) else rows]
        return Split(inputs.index(self.x, rows), inputs.index(self.y, rows), chosen)

    def head(self, count: int) -> Split:
        """The first samples, at most ``count`` of them."""
        return self.take(slice(count))

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Go through all samples.

        Args:
            size: samples a batch; the last may have fewer.
            generator: shuffles them; None: in order.

        Yields:
            Inputs and targets, on the samples' device.
        """
        for part in seeded_order(len(self), generator).to(inputs.first_tensor(self.y).device).split(size):
            yield inputs.index(self.x, part), inputs.index(self.y, part)

    def targets(self) -> Any:
        """All targets."""
        return self.y

    @property
    def group_ids(self) -> NDArray[Any] | None:
        """The groups as an array (samples,), or None."""
        return group_array(self.groups)

    @property
    def scoring_batch(self) -> int:
        """Samples a batch where nothing is learned."""
        values = sum(tensor[:1].numel() for tensor in inputs.tensors(self.x))
        return max(1, min(IN_MEMORY, MOST_VALUES // max(1, values)))

    def digest(self) -> str:
        """A hash of the samples; groups have no part in it."""
        found = hashlib.sha256()
        for tree in (self.x, self.y):
            for path, tensor in inputs.named_tensors(tree):
                feed(found, path, tensor)
        return found.hexdigest()


def tensors_of(tree: Any) -> Any:
    """The nesting with NumPy arrays, numbers and lists of numbers as tensors."""
    if isinstance(tree, np.ndarray | np.generic | int | float):
        return torch.as_tensor(tree)
    if isinstance(tree, list) and (numbers := _numbers(tree)) is not None:
        return torch.as_tensor(numbers)
    if isinstance(tree, tuple) and not hasattr(tree, "_fields"):
        return tuple(tensors_of(part) for part in tree)
    if isinstance(tree, list):
        return [tensors_of(part) for part in tree]
    if type(tree) is dict:
        return {key: tensors_of(part) for key, part in tree.items()}
    return tree


def _numbers(tree: list[Any]) -> NDArray[Any] | None:
    """A list of numbers, or of such lists of one length, as an array; None for anything else."""
    leaf: Any = tree
    while isinstance(leaf, list) and leaf:
        leaf = leaf[0]
    if not isinstance(leaf, int | float | np.generic):
        return None
    try:
        found = np.asarray(tree)
    except ValueError:  # of unequal length
        return None
    return found if found.dtype.kind in "biuf" else None


def group_array(groups: Any) -> NDArray[Any] | None:
    """The groups of samples as an array on the CPU, or None."""
    if groups is None:
        return None
    return groups.cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)


def feed(found: Any, path: tuple[str, ...], tensor: Tensor) -> None:
    """Add a tensor to a hash: its place in the nesting, its type and shape, and its bytes."""
    found.update(f"{path}{tensor.dtype}{tuple(tensor.shape)}".encode())
    found.update(
        tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""
    )
