"""Checks of a model and its inputs before a runtime may run anything faster."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.deploy.runtime.agreement import ROUNDED, difference
from ttq_plugin.errors import InputError, first_line
from ttq_plugin.support.inputs import batch_size, call, kind, leaves, map_tensors, tensors


def check_options(threads: int, int8: bool | Collection[str], *, integer: bool, batches: Any) -> None:
    """Refuse options of a runtime that cannot be combined.

    Args:
        threads: Number of threads.
        int8: The layers that may run in eight bits.
        integer: Whether the whole model runs on integers.
        batches: Calibration inputs.

    Raises:
        InputError: If there is no thread, or an option does not agree with ``integer``.
    """
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}.")
    if integer and int8:
        raise InputError("int8 applies to floating-point networks; leave it out with integer=True.")
    if not integer and batches is not None:
        raise InputError("batches only calibrate integers; pass integer=True as well, or leave batches out.")


def check(model: nn.Module, example: Any) -> None:
    """Refuse a model or an example for which no runtime can be made.

    Args:
        model: The model.
        example: Inputs of it.

    Raises:
        InputError: If the model is in training mode, or the example is not one that it takes on the CPU.
    """
    if model.training:
        raise InputError("TernaryRuntime needs a model in evaluation mode, got one in training mode; call .eval().")
    odd = [t for t in tensors(example) if t.is_floating_point() and t.dtype != torch.float32]
    if odd or any(t.device.type != "cpu" for t in tensors(example)) or batch_size(example) < 1:
        raise InputError(
            "TernaryRuntime needs an example input (batch, ...) of float32 or whole numbers on the CPU, "
            f"got {kind(example)}."
        )
    try:
        call(model, map_tensors(Tensor.clone, example))
    except Exception as error:
        hint = ""
        if isinstance(example, dict) and isinstance(error, TypeError):
            hint = "; a dict is the keyword arguments, and a model whose one argument is a dict needs the tuple (dict,)"
        raise InputError(f"the model does not take the example input: {first_line(error)}{hint}.") from error


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Put a model's buffers back to what they were, whatever calls of the model made of them.

    Args:
        model: The model.

    Yields:
        Nothing.
    """
    before = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for buffer, value in before.values():
            if buffer.shape == value.shape and not torch.equal(buffer, value):
                buffer.copy_(value)


def unsteady(model: nn.Module, example: Any) -> str | None:
    """Find out whether a model gives the same outputs in every call.

    Args:
        model: The model.
        example: Inputs of it.

    Returns:
        Why it does not, or None.
    """
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    first, second = (call(model, map_tensors(Tensor.clone, example)) for _ in range(2))
    changed = [n for n, b in model.named_buffers() if n in before and difference(b, before[n], 0.0) is not None]
    if changed:
        return f"a call of the model changes its buffer {', '.join(changed)}"
    if difference(first, second, ROUNDED) is not None:
        return "the model's outputs differ from one call to the next"
    return None


def signature(inputs: Any) -> Any:
    """Tell inputs apart, but not those that differ in their tensors' values and batch size alone.

    Args:
        inputs: Inputs of a model.

    Returns:
        Something hashable that is equal for such inputs.
    """
    count = batch_size(inputs)

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return repr(leaf)
        together = leaf.dim() and len(leaf) == count
        return together, leaf.shape[1 if together else 0 :], leaf.dtype, leaf.device.type

    return tuple((path, one(leaf)) for path, leaf in leaves(inputs))


def form_of(inputs: Any) -> Any:
    """Tell inputs apart, but not those that differ in sizes, or in what is no tensor.

    Args:
        inputs: Inputs of a model.

    Returns:
        Something that is equal for such inputs.
    """
    found = [
        (path, leaf.dtype, leaf.dim(), leaf.device.type) if isinstance(leaf, Tensor) else path
        for path, leaf in leaves(inputs)
    ]
    return type(inputs), found


class Expected:
    """What later inputs of a runtime are compared with: the form, the types and the sizes of the example.

    Args:
        example: Inputs of the model.
    """

    def __init__(self, example: Any) -> None:
        plain = isinstance(example, Tensor)
        self._shape: torch.Size | None = example.shape[1:] if plain else None
        self._dtype: torch.dtype | None = example.dtype if plain else None
        self._signature, self._form = signature(example), form_of(example)
        self._words = kind(example, batch_size(example))

    def meet(self, inputs: Any) -> tuple[int, bool]:
        """Count samples, and check whether they have the example's sizes.

        Args:
            inputs: Inputs of the model.

        Returns:
            The number of samples, and whether the inputs differ from the example in batch size and values alone.

        Raises:
            InputError: If the inputs have another form or other types.
        """
        if type(inputs) is Tensor and inputs.shape[1:] == self._shape and inputs.dtype is self._dtype and inputs.is_cpu:
            return len(inputs), True
        if form_of(inputs) != self._form:
            raise self.refusal(inputs)
        return batch_size(inputs), signature(inputs) == self._signature

    def refusal(self, inputs: Any, why: str = "") -> InputError:
        """The error for inputs that the runtime cannot take.

        Args:
            inputs: The inputs.
            why: More words, which go before the full stop.

        Returns:
            The error.
        """
        return InputError(f"the runtime was made for {self._words} on the CPU, got {kind(inputs)}{why}.")


def finite(inputs: Any) -> bool:
    """Look for infinite and undefined numbers, as fast as may be.

    Args:
        inputs: Inputs of a model.

    Returns:
        False if there are any, or if a tensor's sum is too large for its type.
    """
    for tensor in tensors(inputs):
        if tensor.is_floating_point():
            total = tensor.sum().item()
            if total - total != 0:
                return False
    return True
