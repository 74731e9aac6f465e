"""The convention for models' inputs and outputs, and functions for tensors nested in any way.

Everywhere in the project, a tuple is a model's positional arguments, a mapping its keyword arguments, and anything else
its one argument. A model whose only argument is a dict is therefore given the tuple ``(dict,)``.

A nesting is a tensor, or a tuple, named tuple, list, mapping or dataclass of nestings. Whatever else it holds (numbers,
None, texts) belongs to all samples alike. The samples lie along the first dimension of each tensor that has dimensions.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.errors import InputError

Path = tuple[str, ...]

MOST_TOLD = 8
"""Largest number of tensors of a nesting that a message describes."""


def call(model: nn.Module | Callable[..., Any], inputs: Any) -> Any:
    """Call a model with its inputs, spread as the convention says.

    Args:
        model: Module or function to call.
        inputs: Tuple of positional arguments, mapping of keyword arguments, or the only argument.

    Returns:
        Whatever the model returns.
    """
    positional, named = arguments(inputs)
    return model(*positional, **named)


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split inputs into positional and keyword arguments.

    Args:
        inputs: Tuple of positional arguments, mapping of keyword arguments, or the only argument.

    Returns:
        The positional arguments and the keyword arguments.
    """
    if isinstance(inputs, tuple) and not hasattr(inputs, "_fields"):
        return inputs, {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs,), {}


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Apply a function to every tensor of a nesting.

    Args:
        function: Function of one tensor.
        tree: Nesting of tensors; it is not changed.

    Returns:
        A nesting of the same kind that holds the function's results in the tensors' places.
    """
    if isinstance(tree, Tensor):
        return function(tree)
    parts = [(key, map_tensors(function, part)) for key, part in _parts(tree)]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(part for _, part in parts))
    if isinstance(tree, tuple | list):
        return type(tree)(part for _, part in parts)
    if isinstance(tree, Mapping):
        if type(tree) is dict:
            return dict(parts)
        twin = copy.copy(tree)
        for key, part in parts:
            twin[key] = part  # type: ignore[index]
        return twin
    return dataclasses.replace(tree, **dict(parts)) if parts else tree


def leaves(tree: Any) -> Iterator[tuple[Path, Any]]:
    """Go through everything that a nesting holds in order.

    Args:
        tree: Nesting of tensors.

    Yields:
        The path of keys, field names and places that leads to a tensor, number or other object, and that object.
    """
    parts = [] if isinstance(tree, Tensor) else _parts(tree)
    if not parts:
        yield (), tree
    for key, part in parts:
        for path, leaf in leaves(part):
            yield (str(key), *path), leaf


def named_tensors(tree: Any) -> Iterator[tuple[Path, Tensor]]:
    """Go through all tensors of a nesting in order.

    Args:
        tree: Nesting of tensors.

    Yields:
        The path of keys, field names and places that leads to a tensor, and the tensor.
    """
    for path, leaf in leaves(tree):
        if isinstance(leaf, Tensor):
            yield path, leaf


def tensors(tree: Any) -> list[Tensor]:
    """List all tensors of a nesting in order.

    Args:
        tree: Nesting of tensors.

    Returns:
        The tensors.
    """
    return [tree] if isinstance(tree, Tensor) else [tensor for _, tensor in named_tensors(tree)]


def first_tensor(tree: Any) -> Tensor:
    """Find the first tensor of a nesting that has dimensions.

    Args:
        tree: Nesting of tensors.

    Returns:
        The tensor.

    Raises:
        InputError: If there is none.
    """
    for tensor in tensors(tree):
        if tensor.dim():
            return tensor
    raise InputError(f"inputs must hold at least one tensor (batch, ...), got {kind(tree)} without any.")


def batch_size(tree: Any) -> int:
    """Return the number of samples that the first tensor holds.

    Args:
        tree: Nesting of tensors.

    Returns:
        The length of its first dimension.
    """
    return len(first_tensor(tree))


def length(tree: Any) -> int:
    """Return the number of samples, of which every tensor must hold the same.

    Args:
        tree: Nesting of tensors.

    Returns:
        The length of the tensors' first dimension.

    Raises:
        InputError: If the tensors' lengths differ, or there is no tensor.
    """
    count = batch_size(tree)
    for path, tensor in named_tensors(tree):
        if tensor.dim() and len(tensor) != count:
            name = ".".join(path)
            raise InputError(
                f"all inputs must hold the same number of samples, got {count} and, in {name}, {len(tensor)}."
            )
    return count


def index(tree: Any, rows: Any) -> Any:
    """Take some samples of every tensor.

    Args:
        tree: Nesting of tensors.
        rows: Anything that indexes the first dimension: a slice, a list of places, a mask or a tensor of places. A
            single number would lose the dimension; give a slice of one instead.

    Returns:
        A nesting of the same kind; tensors without dimensions are those of ``tree``.
    """
    return map_tensors(lambda tensor: tensor[rows] if tensor.dim() else tensor, tree)


def rows(inputs: Any, places: Tensor) -> Any:
    """Take samples, in any order and as often as they are named.

    Args:
        inputs: Inputs of a model; tensors whose length is not the batch's belong to all samples and stay.
        places: Places of samples, int64.

    Returns:
        The inputs with these samples, copied.
    """
    count = batch_size(inputs)
    return map_tensors(lambda t: t[places] if t.dim() and len(t) == count else t.clone(), inputs)


def repeated(inputs: Any, size: int) -> Any:
    """Take the first samples, all over again where there are fewer.

    Args:
        inputs: Inputs of a model.
        size: Number of samples wanted.

    Returns:
        The inputs with that many samples, copied.
    """
    return rows(inputs, torch.arange(size) % batch_size(inputs))


def join(trees: Sequence[Any]) -> Any:
    """Join the samples of several nestings of the same form, such as the outputs of several batches.

    Args:
        trees: At least one nesting of tensors (batch, ...).

    Returns:
        One nesting, the samples in order; what is no tensor is that of the first.

    Raises:
        InputError: If the nestings hold different numbers of tensors, or tensors without dimensions.
    """
    columns = [tensors(tree) for tree in trees]
    if len({len(column) for column in columns}) != 1 or any(not tensor.dim() for tensor in columns[0]):
        raise InputError(f"only tensors (batch, ...) of equal nestings can be joined, got {kind(trees[0])} and others.")
    joined = iter([torch.cat(parts) for parts in zip(*columns, strict=True)])
    return map_tensors(lambda _: next(joined), trees[0])


def to_device(tree: Any, device: torch.device | str) -> Any:
    """Move every tensor to a device.

    Args:
        tree: Nesting of tensors.
        device: Device to move them to.

    Returns:
        A nesting of the same kind; tensors that are there already are not copied.
    """
    return map_tensors(lambda tensor: tensor.to(device), tree)


def kind(tree: Any, batch: int | None = None) -> str:
    """Describe a nesting for a message.

    Args:
        tree: Nesting of tensors.
        batch: Number of samples; a first dimension of this length is shown as "batch".

    Returns:
        Dtype and shape of a tensor, or the nesting's form with those of its tensors, in a few words.
    """
    if isinstance(tree, Tensor):
        sizes = [str(size) for size in tree.shape]
        if sizes and len(tree) == batch:
            sizes[0] = "batch"
        place = "" if tree.device.type == "cpu" else f" on {tree.device}"
        return f"{str(tree.dtype).removeprefix('torch.')} ({', '.join(sizes)}){place}"
    found = [f"{'.'.join(path)}: {kind(tensor, batch)}" for path, tensor in named_tensors(tree)]
    if len(found) > MOST_TOLD:
        found[MOST_TOLD:] = [f"and {len(found) - MOST_TOLD} more"]
    return f"{type(tree).__name__} ({', '.join(found)})" if found else type(tree).__name__


def _parts(tree: Any) -> list[tuple[Any, Any]]:
    """The next level of a nesting, by key, field or place; nothing for a leaf."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return list(zip(tree._fields, tree, strict=True))
    if isinstance(tree, tuple | list):
        return list(enumerate(tree))
    if isinstance(tree, Mapping):
        return list(tree.items())
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [(field.name, getattr(tree, field.name)) for field in dataclasses.fields(tree) if field.init]
    return []
