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

from ttq_plugin.errors import InputError
from ttq_plugin.support import inputs
from ttq_plugin.support.arguments import shown

Batch = tuple[Any, Any]
"""Inputs and targets of some samples, both of any nesting."""

IN_MEMORY = 500
"""The most samples of a batch that is only scored."""

DEEPEST = 64
"""Dimensions of a list of numbers, at most: a list that holds itself has no end."""

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
            its keyword arguments, and anything else is its only argument.
        y: Targets, whose tensors have the shape (samples, ...); class indices are int64.
        groups: The subject, recording or speaker of each sample, as numbers or words, (samples,); None if unknown.

    Raises:
        InputError: If an array cannot be a tensor, or a tensor or the groups are of a kind that cannot be used.

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
        for name in ("x", "y"):
            try:
                found = tensors_of(getattr(self, name))
            except InputError as error:
                raise InputError(f"{name} of a Split: {error}") from None
            except RecursionError:
                raise InputError(f"{name} of a Split must be a nest of tensors, got one that holds itself.") from None
            object.__setattr__(self, name, found)
            for tensor in inputs.tensors(found):
                _check_dense(name, tensor)
        group_array(self.groups)  # refused now if it is no group of each sample; kept as it was given

    def __len__(self) -> int:
        return inputs.batch_size(self.y)

    def to(self, device: str) -> Split:
        """The same samples on ``device``."""
        return Split(inputs.to_device(self.x, device), inputs.to_device(self.y, device), self.groups)

    def take(self, rows: Any) -> Split:
        """The samples at these places.

        Args:
            rows: A slice, or a tensor or list of places.

        Returns:
            Them, with their groups.
        """
        groups = self.group_ids
        chosen = None if groups is None else groups[rows.cpu().numpy() if isinstance(rows, Tensor) else rows]
        return Split(inputs.index(self.x, rows), inputs.index(self.y, rows), chosen)

    def head(self, count: int) -> Split:
        """The first samples, at most ``count`` of them, copied: a model or a loss may write into what it is given."""
        return self.take(torch.arange(min(count, len(self))))

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Go through all samples.

        Args:
            size: Samples a batch; the last may have fewer.
            generator: Shuffles them; None: in order.

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
        return None if self.groups is None else _as_array(self.groups)

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
    """The nesting with NumPy arrays, pandas' tables and columns, numbers and lists of numbers as tensors.

    Args:
        tree: Any nesting.

    Returns:
        The nesting; what is no number stays as it is.

    Raises:
        InputError: If an array holds something else than numbers.
    """
    if isinstance(tree, int | float):
        return torch.as_tensor(tree)
    if isinstance(tree, np.ndarray | np.generic):
        return _of_array(tree)
    if type(tree).__module__.partition(".")[0] == "pandas" and hasattr(tree, "to_numpy"):
        return _of_array(tree.to_numpy())
    if isinstance(tree, list) and (numbers := _numbers(tree)) is not None:
        return torch.as_tensor(numbers)
    if isinstance(tree, tuple) and not hasattr(tree, "_fields"):
        return tuple(tensors_of(part) for part in tree)
    if isinstance(tree, list):
        return [tensors_of(part) for part in tree]
    if type(tree) is dict:
        return {key: tensors_of(part) for key, part in tree.items()}
    return tree


def _of_array(array: NDArray[Any] | np.generic) -> Tensor:
    """An array in the machine's byte order as a tensor, copied where torch cannot share its memory."""
    if np.ma.is_masked(array):
        raise InputError("a masked array must have no masked value, got some; fill them, or leave those samples out.")
    found = np.asarray(array)
    if found.dtype.kind not in "biufc" or found.dtype.itemsize > 8 and found.dtype.kind == "f":
        raise InputError(
            f"an array must hold numbers of a type that torch has, got {found.dtype}; convert it, as by "
            ".astype(numpy.float32)."
        )
    found = found.astype(found.dtype.newbyteorder("="), copy=False)
    if not found.flags.writeable or any(stride < 0 for stride in found.strides):
        found = found.copy()
    return torch.as_tensor(found)


def _check_dense(name: str, tensor: Tensor) -> None:
    kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
    if tensor.is_meta or tensor.is_quantized or kind != "strided":
        came = "one without values (meta)" if tensor.is_meta else "a quantised one" if tensor.is_quantized else kind
        raise InputError(f"{name} of a Split must hold dense tensors with values, got {came}; convert it.")


def _numbers(tree: list[Any]) -> NDArray[Any] | None:
    """A list of numbers, or of such lists of one length, as an array; None for anything else."""
    leaf: Any = tree
    for _ in range(DEEPEST):
        if not isinstance(leaf, list) or not leaf:
            break
        leaf = leaf[0]
    if not isinstance(leaf, int | float | np.generic):
        return None
    try:
        found = np.asarray(tree)
    except ValueError:  # of unequal length
        return None
    return found if found.dtype.kind in "biuf" else None


def group_array(groups: Any) -> NDArray[Any] | None:
    """The groups of samples as an array on the CPU.

    Args:
        groups: An array, tensor, column or list with a number or word a sample; None if unknown.

    Returns:
        The array (samples,), or None.

    Raises:
        InputError: If it is something else, or a sample's group is None or NaN.
    """
    if groups is None:
        return None
    try:
        found = None if isinstance(groups, str | bytes | set | frozenset) else _as_array(groups)
    except ValueError:  # lists of unequal length
        found = None
    if found is None or found.ndim != 1 or not all(isinstance(one, int | float | str) for one in found.tolist()):
        raise InputError(
            f"groups of a Split must be a list or array with a number or word for each sample, got {shown(groups)}."
        )
    if found.dtype.kind in "fO" and any(one != one for one in found.tolist()):
        raise InputError("groups of a Split must name the group of every sample, got NaN; leave those samples out.")
    return found


def _as_array(groups: Any) -> NDArray[Any]:
    return groups.detach().cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)


def feed(found: Any, path: tuple[str, ...], tensor: Tensor) -> None:
    """Add a tensor to a hash: its place in the nesting, its type and shape, and its bytes."""
    found.update(f"{path}{tensor.dtype}{tuple(tensor.shape)}".encode())
    found.update(
        tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""
    )
