"""Convolutions and pooling windows, exact for integers in float64."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def image_of(more: dict[str, Any], source: Tensor) -> Tensor:
    """A layer's input as (batch, channels, rows, columns).

    Args:
        more: The layer's geometry.
        source: (batch, *shape of its input), a view of the buffer.

    Returns:
        Another view of the same numbers.
    """
    shape = (len(source), more["groups"] * more["channels"], more["rows"], more["columns"])
    return source.as_strided(shape, (source.stride(0), *more["steps"]), source.storage_offset())


def spread_layer(image: Tensor, weight: Tensor, more: dict[str, Any]) -> Tensor:
    """Sums of products of a layer; exact for integers whose sums stay below 2^53, because float64 adds them.

    Args:
        image: float64 (batch, channels, rows, columns); what lies beyond the edges counts as 0.
        weight: float64 (out, ...).
        more: The layer's geometry.

    Returns:
        float64 (batch, out, rows, columns).
    """
    rows, columns = more["kernel"]
    kernel = weight.reshape(len(weight), -1, rows, columns)
    (up, left), (rows_out, columns_out) = more["padding"], more["out"]
    # Padding may differ on the four sides: behind the last row there is as much as the output asks for.
    down, right = (
        max(0, (out - 1) * stride + dilation * (size - 1) + 1 - length - before)
        for out, stride, dilation, size, length, before in zip(
            more["out"], more["stride"], more["dilation"], more["kernel"], image.shape[2:], (up, left), strict=True
        )
    )
    padded = F.pad(image, (left, right, up, down))
    total = F.conv2d(padded, kernel, None, more["stride"], 0, more["dilation"], more["groups"])
    return total[:, :, :rows_out, :columns_out]


def spans(more: dict[str, Any], dim: int, size: int) -> list[tuple[int, int, int]]:
    """Pooling windows along rows (0) or columns (1).

    Args:
        more: The pooling's geometry.
        dim: The dimension.
        size: Size of the input.

    Returns:
        For each place of the output: where the window begins, how long it is, and how much of it counts where padding
        counts.
    """
    found = []
    for at in range(more["out"][dim]):
        if more["adaptive"]:
            start = at * size // more["out"][dim]
            length = -(-(at + 1) * size // more["out"][dim]) - start
        else:
            start = at * more["stride"][dim] - more["padding"][dim]
            length = more["kernel_size"][dim]
        end = size + (0 if more["adaptive"] else more["padding"][dim])
        found.append((start, length, min(length, end - start)))
    return found


def taps(span: tuple[int, int, int], size: int, dilation: int) -> list[int]:
    """The places of a window that lie inside the input."""
    start, length, _ = span
    return [at for at in range(start, start + length * dilation, dilation) if 0 <= at < size]


def sum_pool(more: dict[str, Any], image: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over windows and what a mean divides them by.

    Args:
        more: The pooling's geometry.
        image: (batch, channels, rows, columns).

    Returns:
        (batch, channels, rows, columns) of the output, and the counts (rows, columns) as int64.
    """
    total, counts = image, []
    for dim in (0, 1):
        size = image.shape[2 + dim]
        along = spans(more, dim, size)
        places = [taps(span, size, more["dilation"][dim]) for span in along]
        total = torch.stack([total.index_select(2 + dim, torch.tensor(p)).sum(2 + dim) for p in places], 2 + dim)
        padded = more["padded"] and not more["adaptive"]
        counts.append([span[2] if padded else len(p) for span, p in zip(along, places, strict=True)])
    rows, columns = (torch.tensor(each) for each in counts)
    return total, rows[:, None] * columns[None, :]


def largest_pool(more: dict[str, Any], image: Tensor) -> Tensor:
    """Maxima over windows.

    Args:
        more: The pooling's geometry.
        image: (batch, channels, rows, columns).

    Returns:
        (batch, channels, rows, columns) of the output.
    """
    for dim in (0, 1):
        size = image.shape[2 + dim]
        places = [taps(span, size, more["dilation"][dim]) for span in spans(more, dim, size)]
        image = torch.stack([image.index_select(2 + dim, torch.tensor(p)).amax(2 + dim) for p in places], 2 + dim)
    return image
