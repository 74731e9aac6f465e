"""Where an integer layer reads and writes, in the form that the kernels take."""

from __future__ import annotations

from dataclasses import dataclass

from ttq_plugin.deploy.host.planes import Planes, planes_of
from ttq_plugin.deploy.integer.records import IntegerOp
from ttq_plugin.deploy.program.steps import Buffer

LARGEST_POOL = 128
"""Positions of a pooling window, which must fit into a tile."""

LARGEST_PLANES = 1 << 30
"""Numbers of a padded sample."""


@dataclass(frozen=True)
class Geometry:
    """A layer's places, as the fields of ``struct layer`` that hold for every way to run it.

    Attributes:
        sizes: The fields by name.
        windows: Results of an output channel of a sample.
        members: Positions in a pooling window.
        planes: How a channel is padded and taken apart.
        rows: Weights of an output channel.
    """

    sizes: dict[str, int]
    windows: int
    members: int
    planes: Planes
    rows: int


def geometry_of(op: IntegerOp, numbers: dict[Buffer, int]) -> Geometry | None:
    """Describe a layer's places.

    Args:
        op: The layer.
        numbers: Number of each buffer.

    Returns:
        None if the kernels do not support it: it reads constants, does not write in the order of an image, or pools
        over too large a window.
    """
    more, source = op.more, op.inputs[0]
    (rows_out, columns_out), pool = more["out"], more["pool"] or {"size": (1, 1), "stride": (1, 1)}
    (high, wide), (down, along) = pool["size"], pool["stride"]
    windows = (rows_out - high) // down + 1, (columns_out - wide) // along + 1
    if source.buffer.constant is not None or high * wide > LARGEST_POOL:
        return None
    places = _strides(op, windows)
    if places is None:
        return None
    (kernel_h, kernel_w), (stride_h, stride_w) = more["kernel"], more["stride"]
    planes = planes_of(more, windows)
    if more["groups"] * more["channels"] * planes.numbers > LARGEST_PLANES:
        return None
    sizes = {
        **{"input": numbers[source.buffer], "input_offset": source.meta.storage_offset()},
        **dict(zip(("step_c", "step_y", "step_x"), more["steps"], strict=True)),
        **{"input_sample": source.buffer.size, "output_sample": op.output.buffer.size},
        **{"output": numbers[op.output.buffer], "output_offset": op.output.meta.storage_offset()},
        **dict(zip(("to_c", "to_y", "to_x"), places, strict=True)),
        **{"groups": more["groups"], "channels": more["channels"], "rows": more["rows"], "columns": more["columns"]},
        **{"kernel_h": kernel_h, "kernel_w": kernel_w, "stride_h": stride_h, "stride_w": stride_w},
        **{"pad_h": more["padding"][0], "pad_w": more["padding"][1]},
        **{"dilation_h": more["dilation"][0], "dilation_w": more["dilation"][1]},
        **{"windows_h": windows[0], "windows_w": windows[1], "pool_h": high, "pool_w": wide},
        **{"pool_stride_h": down, "pool_stride_w": along},
        **{"phases": planes.phases, "plane": planes.plane, "plane_w": planes.width},
    }
    rows = more["channels"] * kernel_h * kernel_w
    return Geometry(sizes, windows[0] * windows[1], high * wide, planes, rows)


def _strides(op: IntegerOp, windows: tuple[int, int]) -> tuple[int, ...] | None:
    """Distances of neighbouring channels, rows and columns in the output's buffer."""
    assert op.weights is not None
    channels, last = len(op.weights.codes), op.more["transposed_output"]
    shape = (*windows, channels) if last else (channels, *windows)
    try:
        found = op.output.meta.view(shape).stride()
    except RuntimeError:
        return None
    return (found[2], found[0], found[1]) if last else found
