"""The inference kernels: ctypes around ``inference.c``; None where no compiler was at installation, or TTQ_NATIVE=0."""

from __future__ import annotations

import ctypes
import os
import warnings
from ctypes import c_int64, c_uint64, c_void_p
from typing import Any

from ttq_plugin.native.build import INFERENCE, fingerprint, library_of

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
    library = library_of(INFERENCE)
    if os.environ.get("TTQ_NATIVE") == "0" or not library.exists():
        return None
    reason = "was built from another source"
    try:
        kernels = ctypes.CDLL(str(library))
        kernels.ttq_source.restype = c_uint64
        if kernels.ttq_source() == fingerprint(INFERENCE):
            kernels.ttq_layer.argtypes, kernels.ttq_layer.restype = (c_void_p, c_int64, *[c_void_p] * 5), None
            return kernels.ttq_layer
    except (OSError, AttributeError) as error:
        reason = f"cannot be used ({error})"
    warnings.warn(f"{library} {reason}; torch is used instead, which is slower. Reinstall ttq-plugin.", stacklevel=2)
    return None


RUN = load()
