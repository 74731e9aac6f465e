"""The inference kernels: ctypes bindings of ``inference.c``; None if they were not built, or with TTQ_NATIVE=0."""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from typing import Any

from ttq_plugin.native.build import INFERENCE
from ttq_plugin.native.library import open_library

SIZES = (
    *("channels", "width", "plane", "sample"),
    *("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w"),
    *("out_channels", "out_h", "out_w"),
    *("pool_h", "pool_w", "pool_stride_h", "pool_stride_w", "pooled_h", "pooled_w"),
    *("next_width", "next_plane", "next_sample", "next_origin"),
    *("vectors", "chunk", "band"),
)
LANES = 16
DENSE_ROWS = 4
WAYS = {1: 4, 2: 2, 4: 1}
"""Vectors in a tile -> rows that a step of a sparse list adds."""


class Layer(ctypes.Structure):
    """``struct layer`` of the source, which says what each number is."""

    _fields_ = [
        *((name, c_int64) for name in SIZES),
        *((name, c_void_p) for name in ("shift", "slope", "weights", "groups")),
        ("group_count", c_int64),
        *((name, c_void_p) for name in ("order", "scales", "rows")),
    ]


def load() -> Any:
    """The library's ``ttq_layer``, or None; with a warning, if what is there cannot be used."""
    library = open_library(INFERENCE, "ttq_layer")
    if library is None:
        return None
    library.ttq_layer.argtypes, library.ttq_layer.restype = (c_void_p, c_int64, *[c_void_p] * 5), None
    return library.ttq_layer


RUN = load()
