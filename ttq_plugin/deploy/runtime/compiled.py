"""A layer and what follows it as numbers, and those laid out for the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ttq_plugin.core.model.layers import tensor_of
from ttq_plugin.deploy.program.folding import folded
from ttq_plugin.deploy.program.fusion import Tail
from ttq_plugin.deploy.program.geometry import pair, places, pooled
from ttq_plugin.measures.ternary import codes_of
from ttq_plugin.native.inference import DENSE_ROWS, LANES, WAYS, Layer

Floats = NDArray[np.float32]
CACHED = 1 << 16
"""Floats of unfinished sums that are kept in a core's cache."""


@dataclass(frozen=True)
class Choice:
    """How a layer runs.

    Attributes:
        kind: `torch`, `dense` (our kernel), `sparse` (ternary) or `int8`.
        vectors: Number of vectors of 16 positions in a tile.
        chunk: Samples whose positions share tiles.
    """

    kind: str
    vectors: int = 1
    chunk: int = 1

    @property
    def ours(self) -> bool:
        """Whether the kernels run it, which share padded inputs."""
        return self.kind in {"dense", "sparse"}


@dataclass
class Spec:
    """A layer as numbers, all in two dimensions (a signal is a picture of one row).

    Attributes:
        weight: (out, in, rows, columns), BatchNorm's gain included, float32.
        shift: (out,): bias and BatchNorm's.
        slope: The slope, as in ``Tail``.
        stride: (rows, columns), likewise the next.
        dilation: Dilation of the kernel.
        padding: Zeros on each side.
        window: The window of the pooling; (1, 1) none.
        step: Its stride.
        ternary: Whether a row of the weight has at most one value of each sign.
    """

    weight: Floats
    shift: Floats
    slope: float
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]
    window: tuple[int, int]
    step: tuple[int, int]
    ternary: bool

    @property
    def rows(self) -> int:
        """Number of rows of the panel: the inputs that are summed for one output."""
        return int(np.prod(self.weight.shape[1:]))

    def sizes(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Rows and columns of the convolution's output, and after pooling, of an input without its padding."""
        along = zip((height, width), self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True)
        rows, columns = (places(*each) for each in along)
        return rows, columns, *pooled((rows, columns), {"size": self.window, "stride": self.step})


def spec_of(layer: nn.Module, tail: Tail) -> Spec:
    """The numbers of a Conv1d, Conv2d or Linear and what follows it."""
    plain = tensor_of(layer, "weight")
    norm = None if tail.norm is None else tail.norm.given
    gain, shift = folded(getattr(layer, "bias", None), norm, len(plain))
    weight = plain.detach().double() * gain.reshape(-1, *[1] * (plain.dim() - 1))
    dims = weight.dim() - 2
    numbers = weight.reshape(*weight.shape[:2], *(pair(weight.shape[2:], dims) if dims else (1, 1)))
    stride, dilation, padding = (
        pair(getattr(layer, word), dims, lead) if dims else (lead, lead)
        for word, lead in (("stride", 1), ("dilation", 1), ("padding", 0))
    )
    window, step = tail.pool or ((1, 1), (1, 1))
    return Spec(
        np.ascontiguousarray(numbers.float().numpy()),
        shift.float().numpy(),
        tail.slope,
        *(stride, dilation, padding, window, step),
        ternary=codes_of(plain) is not None,
    )


@dataclass
class Compiled:
    """A layer compiled for one shape of input: the struct, the arrays it points to, and the sizes of what it needs."""

    layer: Layer
    arrays: list[NDArray[Any]]
    panel: int
    sums: int
    out: tuple[int, int, int]
    additions: int


def compile_layer(spec: Spec, height: int, width: int, choice: Choice, next_padding: tuple[int, int]) -> Compiled:
    """Lay out a layer's numbers for ``ttq_layer``.

    Args:
        spec: The layer.
        height: Height of the input, without padding.
        width: Width of the input, without padding.
        choice: `dense` or `sparse`, and how.
        next_padding: Zeros that the next layer wants around its input, which is this one's output.

    Returns:
        The compiled layer.
    """
    out_channels, channels, kernel_h, kernel_w = spec.weight.shape
    out_h, out_w, pooled_h, pooled_w = spec.sizes(height, width)
    wide, high = width + 2 * spec.padding[1], height + 2 * spec.padding[0]
    next_w, next_h = pooled_w + 2 * next_padding[1], pooled_h + 2 * next_padding[0]
    band = max(1, CACHED // (out_channels * out_w * spec.step[0])) if choice.chunk == 1 else pooled_h
    sizes = {
        **{"channels": channels, "width": wide, "plane": wide * high, "sample": channels * wide * high},
        **{"kernel_h": kernel_h, "kernel_w": kernel_w, "stride_h": spec.stride[0], "stride_w": spec.stride[1]},
        **{"dilation_h": spec.dilation[0], "dilation_w": spec.dilation[1]},
        **{"out_channels": out_channels, "out_h": out_h, "out_w": out_w},
        **{"pool_h": spec.window[0], "pool_w": spec.window[1]},
        **{"pool_stride_h": spec.step[0], "pool_stride_w": spec.step[1], "pooled_h": pooled_h, "pooled_w": pooled_w},
        **{"next_width": next_w, "next_plane": next_w * next_h, "next_sample": out_channels * next_w * next_h},
        "next_origin": next_padding[0] * next_w + next_padding[1],
        **{"vectors": choice.vectors, "chunk": choice.chunk, "band": min(band, pooled_h)},
    }
    padded = -(-out_channels // DENSE_ROWS) * DENSE_ROWS
    shift = np.zeros(padded, dtype=np.float32)
    shift[:out_channels] = spec.shift
    arrays: dict[str, NDArray[Any]] = {"shift": shift, "slope": np.full(padded, spec.slope, dtype=np.float32)}
    matrix = spec.weight.reshape(out_channels, -1)
    arrays |= _sparse(matrix, choice.vectors) if choice.kind == "sparse" else _dense(matrix, padded)
    layer = Layer(**sizes, group_count=len(arrays["groups"]) if choice.kind == "sparse" else 0)
    for name, array in arrays.items():
        setattr(layer, name, array.ctypes.data)
    tile = choice.vectors * LANES
    positions = -(-choice.chunk * out_h * out_w // tile) * tile
    additions = int(np.count_nonzero(matrix)) * out_h * out_w
    return Compiled(
        layer,
        list(arrays.values()),
        panel=(spec.rows + 1) * tile + LANES,
        sums=padded * positions + 2 * LANES,
        out=(out_channels, next_h, next_w),
        additions=additions,
    )


def _dense(matrix: Floats, padded: int) -> dict[str, NDArray[Any]]:
    """The matrix (out, rows) as (out / 4, rows, 4)."""
    whole = np.zeros((padded, matrix.shape[1]), dtype=np.float32)
    whole[: len(matrix)] = matrix
    blocks = whole.reshape(-1, DENSE_ROWS, matrix.shape[1]).transpose(0, 2, 1)
    return {"weights": np.ascontiguousarray(blocks)}


def _sparse(matrix: Floats, vectors: int) -> dict[str, NDArray[Any]]:
    """Lists of rows to add, channels sorted by the lists' lengths, so that loops of one length follow each other."""
    # A list is filled up to whole steps with the panel's row of zeros, the last one.
    ways, zero = WAYS[vectors], matrix.shape[1]
    lists = [[np.flatnonzero(row > 0), np.flatnonzero(row < 0)] for row in matrix]
    steps = np.array([[-(-len(part) // ways) for part in pair] for pair in lists])
    order = np.lexsort((steps[:, 1], steps[:, 0]))
    rows = []
    for channel in order:
        for part in lists[channel]:
            rows += [part, np.full(-len(part) % ways, zero)]
    changes = np.flatnonzero(np.any(np.diff(steps[order], axis=0) != 0, axis=1)) + 1
    starts = np.concatenate([[0], changes])
    counts = np.diff(np.concatenate([starts, [len(order)]]))
    scales = np.stack([matrix.max(1, initial=0), matrix.min(1, initial=0)], 1)[order]
    return {
        "groups": np.column_stack([counts, steps[order][starts]]).astype(np.int32),
        "order": order.astype(np.int32),
        "scales": np.ascontiguousarray(scales, dtype=np.float32),
        "rows": np.concatenate([*rows, np.zeros(1)]).astype(np.uint16),
    }
