"""How windows lie over rows and columns: kernels of convolutions, pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx

from ttq_plugin.errors import InputError

Pair = tuple[int, int]


def pair(value: Any, dims: int, lead: int = 1) -> Pair:
    """Numbers of a window as (rows, columns).

    Args:
        value: One number, which holds for all dimensions, or a sequence of one or ``dims`` numbers.
        dims: Dimensions that the window has: 1 for signals, 2 for images.
        lead: What the rows of a signal are: 1, or 0 where a number counts zeros around them.

    Returns:
        Two whole numbers.
    """
    numbers = list(value) if isinstance(value, Sequence) else [value]
    return (lead, int(numbers[0])) if dims == 1 else (int(numbers[0]), int(numbers[-1]))


def places(size: int, window: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """How many windows fit side by side.

    Args:
        size: Size of the input.
        window: Numbers that one covers.
        stride: Step from one window to the next.
        padding: Zeros before and behind.
        dilation: Distance of a window's numbers.

    Returns:
        Their number; 0 or less where not even one fits.
    """
    return (size + 2 * padding - dilation * (window - 1) - 1) // stride + 1


def pooled(out: Pair, pool: dict[str, Pair] | None) -> Pair:
    """Rows and columns of a layer's output after its fused pooling, if any."""
    if pool is None:
        return out
    rows, columns = (places(n, w, s) for n, w, s in zip(out, pool["size"], pool["stride"], strict=True))
    return rows, columns


def geometry(node: fx.Node, given: dict[str, Any], source: Tensor) -> dict[str, Any]:
    """How a convolution reads its input (1, channels, [rows,] columns).

    Args:
        node: The convolution in an exported graph.
        given: Its arguments.
        source: Its input, without data.

    Returns:
        Numbers by name, as the steps of layers have them.

    Raises:
        InputError: If there is no dimension for the batch.
    """
    weight = given["weight"].meta["val"].shape
    if source.dim() != len(weight):
        raise InputError(
            "a convolution of one sample without a batch dimension has neither C code nor an integer form; "
            "keep the batch dimension."
        )
    dims = len(weight) - 2
    image = source if dims == 2 else source.unsqueeze(2)
    kernel, dilation = pair(weight[2:], dims), pair(given["dilation"], dims)
    if given["padding"] == "same":  # of an odd number of zeros, one more lies beyond, where there are zeros anyway
        padding = ((kernel[0] - 1) * dilation[0] // 2, (kernel[1] - 1) * dilation[1] // 2)
    else:
        padding = (0, 0) if given["padding"] == "valid" else pair(given["padding"], dims, 0)
    return {
        **{"groups": given["groups"], "channels": image.shape[1] // given["groups"]},
        **{"rows": image.shape[2], "columns": image.shape[3], "steps": image.stride()[1:]},
        **{"kernel": kernel, "stride": pair(given["stride"], dims), "padding": padding},
        **{"dilation": dilation, "transposed_output": False, "out": pair(node.meta["val"].shape[2:], dims)},
    }
