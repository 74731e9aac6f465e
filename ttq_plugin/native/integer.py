"""The kernels of integer networks: ctypes bindings of ``integer.c``."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int64, c_void_p

from ttq_plugin.native.build import INTEGER
from ttq_plugin.native.library import open_library

SPARSE, DENSE, DOTS = range(3)
"""How a layer runs: adds rows of a panel, multiplies a panel of bytes, or takes position after position."""

SIZES = (
    "kind",
    *("input", "input_offset", "input_sample", "step_c", "step_y", "step_x"),
    *("output", "output_offset", "output_sample", "to_c", "to_y", "to_x"),
    *("groups", "channels", "rows", "columns"),
    *("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w", "out_channels"),
    *("windows_h", "windows_w", "pool_h", "pool_w", "pool_stride_h", "pool_stride_w"),
    *("zero_in", "shift", "zero", "low", "high", "table_first", "lines"),
    *("tile", "windows", "chunk", "subset", "wide", "block_count"),
    *("phases", "plane", "plane_w", "results", "panel_at", "sums_at", "results_at"),
)
ARRAYS = ("places", "sources", "gathers", "factors", "constants", "table", "blocks", "runs", "order", "list", "weights")

WAYS = {16: 4, 32: 4, 64: 2, 96: 1, 128: 1}
"""Positions in a tile of a sparse layer -> rows that a step of a list adds."""

DENSE_TILES = (16, 32, 64)
ROW = 64
"""What the rows of ``DOTS`` are filled up to, and what working memory is aligned to."""

SLACK = 256
"""Bytes behind each part of the working memory that kernels may read and write."""


GATHERED, REACH = 32, 128
"""Numbers of a plane that are gathered at a time, and among how many of the input."""


class Layer(ctypes.Structure):
    """``struct layer`` of the source, which says what each number is."""

    _fields_ = [*((name, c_int64) for name in SIZES), *((name, c_void_p) for name in ARRAYS)]


class Kernels:
    """The functions of the library, for the best of this processor's instructions.

    Args:
        library: What was compiled.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        library.ttq_level.restype = c_int64
        self.level: int = library.ttq_level()
        self.layers = library.ttq_layers
        self.layers.argtypes, self.layers.restype = (c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_int64), None
        self.quantise = library.ttq_quantise
        self.quantise.argtypes, self.quantise.restype = (
            (c_void_p, c_int64, c_double, c_int64, c_void_p, c_int64),
            None,
        )
        self.dequantise = library.ttq_dequantise
        self.dequantise.argtypes, self.dequantise.restype = self.quantise.argtypes, None


def load() -> Kernels | None:
    """The kernels, or None where there are none; with a warning, if what is there cannot be used."""
    library = open_library(INTEGER, "ttq_layers")
    return None if library is None else Kernels(library)


KERNELS = load()
