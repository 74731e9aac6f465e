"""A layer's integers in Python's own, position by position: slow, exact, and independent of torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ttq_plugin.deploy.integer.lower import IntegerOp


def shifted(total: int, shift: int) -> int:
    size = (abs(total) + (1 << (shift - 1))) >> shift
    return -size if total < 0 else size


def finished(op: IntegerOp, total: int) -> int:
    return max(op.low, min(op.high, op.zero + shifted(total, op.shift)))


def layer(op: IntegerOp, sample: list[int]) -> list[int]:
    """What a layer gives on one sample's buffer, in the order of its output."""
    more, weights = op.more, op.weights
    assert weights is not None
    codes = weights.codes.reshape(len(weights.codes), more["channels"], *more["kernel"]).tolist()
    first = op.inputs[0].meta.storage_offset()
    per_group = len(codes) // more["groups"]
    rows, columns = more["out"]
    values = torch.zeros(len(codes), rows, columns, dtype=torch.float64)
    for out, kernel in enumerate(codes):
        factors = [int(m[out if len(m) > 1 else 0]) for m in (weights.positive, weights.negative) if m is not None]
        bias = int(weights.bias[out]) << (op.shift - weights.bias_bits) if weights.bias.numel() else 0
        for row in range(rows):
            for column in range(columns):
                sums = [0, 0]
                for channel in range(more["channels"]):
                    for i, line in enumerate(kernel[channel]):
                        for j, code in enumerate(line):
                            r = row * more["stride"][0] + i * more["dilation"][0] - more["padding"][0]
                            c = column * more["stride"][1] + j * more["dilation"][1] - more["padding"][1]
                            if not (0 <= r < more["rows"] and 0 <= c < more["columns"]) or not code:
                                continue
                            place = (out // per_group * more["channels"] + channel) * more["steps"][0]
                            x = sample[first + place + r * more["steps"][1] + c * more["steps"][2]] - op.zeros[0]
                            sums[int(len(factors) == 2 and code < 0)] += x * (abs(code) if len(factors) == 2 else code)
                total = bias + sums[0] * factors[0] - (sums[1] * factors[1] if len(factors) == 2 else 0)
                q = finished(op, total)
                values[out, row, column] = q if op.table is None else int(op.table[q + 128])
    return _arranged(op, values).reshape(-1).to(torch.int64).tolist()


def _arranged(op: IntegerOp, values: Tensor) -> Tensor:
    if op.more["pool"]:
        (high, wide), (down, right) = op.more["pool"]["size"], op.more["pool"]["stride"]
        values = values.unfold(1, high, down).unfold(2, wide, right).amax((-1, -2))
    return values.permute(1, 2, 0) if op.more["transposed_output"] else values
