"""Whether a batch may be cut into parts that run on threads of their own, and the cut."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ttq_plugin.deploy.runtime.agreement import ROUNDED, difference, probes
from ttq_plugin.support.inputs import batch_size, call, join, map_tensors, repeated

ROWS = 4
"""Samples of the batches that are cut to see whether that changes anything."""

READING = ("_local_scalar_dense", "is_nonzero", "equal", "item", "nonzero")


class _Reads(TorchDispatchMode):
    """Notes whether a tensor's values come out as Python numbers, sizes or truths."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no annotation there
        self.seen: bool = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.seen |= func.overloadpacket.__name__ in READING
        return func(*args, **(kwargs or {}))


def reads_values(model: nn.Module, example: Any) -> bool:
    """Whether a model's code reads values out of tensors, by which it may decide what to do.

    Args:
        model: The model.
        example: Inputs of it.

    Returns:
        True if it does on this example.
    """
    mode = _Reads()
    with mode:
        call(model, map_tensors(Tensor.clone, example))
    return mode.seen


def split(inputs: Any, share: int) -> list[Any]:
    """Cut a batch.

    Args:
        inputs: Inputs of a model; tensors whose length is not the batch's belong to all parts.
        share: Samples of each part; the last one may have fewer.

    Returns:
        The parts, which are views.
    """
    count = batch_size(inputs)

    def part(start: int) -> Any:
        return map_tensors(lambda t: t[start : start + share] if t.dim() and len(t) == count else t, inputs)

    return [part(start) for start in range(0, count, share)]


def rows_apart(model: nn.Module, example: Any) -> bool:
    """Whether each sample's outputs depend on this sample alone, as far as some batches tell.

    Args:
        model: The model.
        example: Inputs of it.

    Returns:
        False also where outputs cannot be joined.
    """
    for _, inputs in probes(repeated(example, ROWS)):
        try:
            whole = call(model, map_tensors(Tensor.clone, inputs))
            parts = join([call(model, map_tensors(Tensor.clone, part)) for part in split(inputs, ROWS // 2)])
        except Exception:  # noqa: BLE001 - whatever a model raises; InputError where outputs cannot be joined
            return False
        if difference(parts, whole, ROUNDED) is not None:
            return False
    return True
