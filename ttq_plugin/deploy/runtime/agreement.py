"""Checks whether a faster form of a model gives the model's outputs: the test inputs, and the comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.errors import first_line
from ttq_plugin.support.inputs import batch_size, call, leaves, map_tensors, repeated

EXACT = 1e-6
"""Largest relative difference of two forms that call the same operations of torch."""

ROUNDED = 1e-4
"""Largest relative difference where sums are taken in another order."""

PROBED = 2
"""Samples of a probe that is not about the batch size."""


def probes(example: Any) -> Iterator[tuple[str, Any]]:
    """Make inputs like the example with other values: scaled, negated, random, or in another order.

    Args:
        example: Inputs that the model takes. Whole numbers, which may be indices, only change their places.

    Yields:
        What an input is, for a message, and the input; always the same ones.
    """
    generator = torch.Generator().manual_seed(0)

    def shuffled(tensor: Tensor) -> Tensor:
        return tensor.reshape(-1)[torch.randperm(tensor.numel(), generator=generator)].reshape(tensor.shape)

    def changed(change: Callable[[Tensor], Tensor]) -> Any:
        return map_tensors(lambda t: change(t) if t.is_floating_point() else shuffled(t), example)

    def noise(tensor: Tensor) -> Tensor:
        spread, mean = torch.var_mean(tensor.double(), correction=0)
        return (torch.randn(tensor.shape, generator=generator) * spread.sqrt() + mean).to(tensor.dtype)

    yield "the example", map_tensors(Tensor.clone, example)
    yield "the example scaled and shifted", changed(lambda t: 3 * t + 1)
    yield "the negated example", changed(torch.neg)
    yield "random inputs", changed(noise)


def difference(ours: Any, theirs: Any, tolerance: float) -> str | None:
    """Compare two outputs of any nesting.

    Args:
        ours: The outputs in question.
        theirs: The correct outputs.
        tolerance: Largest difference of floating-point numbers, relative to the largest finite one of their tensor.
            All else must be equal; objects that are neither tensors nor plain values must be of one type.

    Returns:
        The first difference in words, or None.
    """
    if type(ours) is not type(theirs):
        return f"a {type(ours).__name__} instead of a {type(theirs).__name__}"
    pairs = list(leaves(ours)), list(leaves(theirs))
    if [path for path, _ in pairs[0]] != [path for path, _ in pairs[1]]:
        return "outputs of another form"
    for (path, one), (_, other) in zip(*pairs, strict=True):
        if (found := _leaf_difference(one, other, tolerance)) is not None:
            return f"{found} in output {'.'.join(path)}" if path else found
    return None


def _leaf_difference(one: Any, other: Any, tolerance: float) -> str | None:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        same = type(one) is type(other) and (one == other or not isinstance(one, int | float | str | bool))
        return None if same else f"{one!r} instead of {other!r}"
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"{tuple(one.shape)} of {one.dtype} instead of {tuple(other.shape)} of {other.dtype}"
    if torch.equal(one, other):
        return None
    if not one.is_floating_point():
        return f"{int((one != other).sum())} of {one.numel()} whole numbers differ"
    known = other.isfinite()
    if not bool(((one == other) | (known & one.isfinite()) | (one.isnan() & other.isnan())).all()):
        return "infinities or NaN at other positions"
    wide = torch.where(known, one, 0).double(), torch.where(known, other, 0).double()
    error, largest = float((wide[0] - wide[1]).abs().max()), float(wide[1].abs().max())
    return None if error <= tolerance * largest else f"a difference of {error:.2g} where outputs reach {largest:.2g}"


def asked(model: nn.Module, example: Any) -> list[tuple[str, Any]]:
    """Collect what a form of a model is compared on.

    Args:
        model: The model.
        example: Inputs of it.

    Returns:
        The example, other values, and other batch sizes where the model takes them, with what each is in words.
    """
    sizes = [size for size in (1, 3) if takes(model, example, size)]
    few = repeated(example, min(PROBED, batch_size(example))) if len(sizes) == 2 else example
    return [*probes(few), *((f"a batch of {size}", repeated(example, size)) for size in sizes)]


def disagreement(
    model: nn.Module, fast: Callable[[Any], Any], questions: Iterable[tuple[str, Any]], tolerance: float
) -> str | None:
    """Compare a form of a model with the model.

    Args:
        model: What is right.
        fast: The form, which is given the inputs as one object.
        questions: What the inputs are, in words, and inputs; those that the model itself refuses are passed over.
        tolerance: The tolerance, as in ``difference``.

    Returns:
        The first disagreement in words, or None.
    """
    for words, inputs in questions:
        try:
            expected = call(model, map_tensors(Tensor.clone, inputs))
        except Exception:  # noqa: BLE001 - a model may refuse values that it was not made for, in any way
            continue
        try:
            found = difference(fast(map_tensors(Tensor.clone, inputs)), expected, tolerance)
        except Exception as error:  # noqa: BLE001 - whatever a model's code raises where it is run in another form
            found = f"{type(error).__name__}: {first_line(error)}"
        if found is not None:
            return f"{found}, on {words}" if words else found
    return None


def takes(model: nn.Module, example: Any, size: int) -> bool:
    """Whether a model takes a number of samples.

    Args:
        model: The model.
        example: Inputs of it, of any number of samples.
        size: Number of samples.

    Returns:
        False if it raises anything.
    """
    try:
        call(model, repeated(example, size))
    except Exception:  # noqa: BLE001 - see above
        return False
    return True
