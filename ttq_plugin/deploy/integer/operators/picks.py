"""Numbers in other places along a dimension, such as nearest upsampling, as copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ttq_plugin.deploy.program.steps import Step, View

if TYPE_CHECKING:
    from ttq_plugin.deploy.integer.operators.form import Maker

MOST_COPIES = 64
"""Largest number of copies for one pick; each is a call with its own strides in the C code."""

Stretch = tuple[int, tuple[int, int], tuple[int, int]]
"""A number of places, and the first place and the step between two, of the result and of the source."""


def emit(made: Maker, step: Step, inputs: list[View]) -> None:
    """Places that lie evenly in the source and in the result are one copy.

    Args:
        made: What the copies are added to.
        step: The pick.
        inputs: Its source.

    Raises:
        InputError: If numbers are mixed, or the copies would be too many.
    """
    if step.more["second"] is not None:
        raise made.missing(step, "linear upsampling")
    dim, found = step.more["dim"], stretches(step.more["first"], MOST_COPIES + 1)
    if len(found) > MOST_COPIES:
        raise made.missing(step, f"an order of numbers that takes more than {MOST_COPIES} copies")
    for count, to, of in found:
        output = View(step.output.buffer, _evenly(step.output.meta, dim, count, to))
        source = View(inputs[0].buffer, _evenly(inputs[0].meta, dim, count, of))
        made.emit("copy", Step("map", output, [], {"what": "COPY"}), [source])


def stretches(sources: list[int], most: int) -> list[Stretch]:
    """Every place of a result once, in stretches that are as long as can be from the first place that is left.

    The time is proportional to the number of places, because the longest stretch is found among the short steps, and
    the number of stretches is limited.

    Args:
        sources: The place in the source of each place of the result.
        most: The number of stretches after which the rest is left out.

    Returns:
        The stretches; in the source no step is negative, because no tensor's stride is.
    """
    left = dict(enumerate(sources))
    found: list[Stretch] = []
    while left and len(found) < most:
        best = _longest(left, len(sources))
        first = best[0]
        step, move = (best[1] - first, left[best[1]] - left[first]) if len(best) > 1 else (1, 1)
        found.append((len(best), (first, step), (left[first], move)))
        for place in best:
            del left[place]
    return found


def _longest(left: dict[int, int], places: int) -> list[int]:
    """The longest stretch from the first place that is left; of equally long ones, that of the shortest step."""
    first, *others = left
    best = [first]
    for second in others:
        if (places - 1 - first) // (second - first) < len(best):
            break  # with this step or a longer one, no stretch has more places
        best = max(best, _run(left, first, second), key=len)
    return best


def _run(left: dict[int, int], first: int, second: int) -> list[int]:
    """Places at the distance of the first two, as long as their sources are at one distance, too."""
    step, move = second - first, left[second] - left[first]
    run = [first]
    while move >= 0 and left.get(run[-1] + step) == left[run[-1]] + move:
        run.append(run[-1] + step)
    return run


def _evenly(meta: Tensor, dim: int, count: int, places: tuple[int, int]) -> Tensor:
    """Some places of a dimension, by their first and their step."""
    shape, strides = list(meta.shape), list(meta.stride())
    offset = int(meta.storage_offset()) + places[0] * strides[dim]
    shape[dim], strides[dim] = count, strides[dim] * places[1]
    return meta.as_strided(shape, strides, offset)
