"""Runs an integer program in torch: the reference that C code and the host runtime must equal bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ttq_plugin.deploy.integer.arithmetic import LOWEST, requantise
from ttq_plugin.deploy.integer.floats import Memory, arranged, broadcast
from ttq_plugin.deploy.integer.operators.table import FORMS
from ttq_plugin.deploy.integer.records import IntegerOp, IntegerProgram
from ttq_plugin.deploy.integer.windows import image_of, largest_pool, spread_layer, sum_pool


def run_integers(program: IntegerProgram, q: Tensor) -> Tensor:
    """The result on integer samples.

    Args:
        program: The operations.
        q: int8 (batch, numbers of a sample).

    Returns:
        int8 (batch, numbers of the result).
    """
    memory = Memory(program.constants, torch.int8)
    memory.start(program.input, q)
    for op in program.ops:
        memory.write(op.output, KINDS[op.kind](op, [memory.read(view) for view in op.inputs]))
    return memory.read(program.output).flatten(1)


def _less_zero(op: IntegerOp, inputs: list[Tensor]) -> list[Tensor]:
    return [x.to(torch.int64) - zero for x, zero in zip(inputs, op.zeros, strict=True)]


def _finish(op: IntegerOp, total: Tensor) -> Tensor:
    return requantise(total, op.shift, op.zero, op.low, op.high)


def _looked_up(op: IntegerOp, q: Tensor) -> Tensor:
    assert op.table is not None
    return op.table[q.to(torch.int64) - LOWEST]


def _layer(op: IntegerOp, inputs: list[Tensor]) -> Tensor:
    weights = op.weights
    assert weights is not None
    image = (image_of(op.more, inputs[0]).double() - op.zeros[0]).contiguous()
    total = _sums(image, weights.codes.clamp(min=0) if weights.ternary else weights.codes, weights.positive, op)
    if weights.negative is not None:
        total = total - _sums(image, (-weights.codes).clamp(min=0), weights.negative, op)
    if weights.bias.numel():
        total = total + (weights.bias << (op.shift - weights.bias_bits)).view(-1, 1, 1)
    q = _finish(op, total)
    return arranged(op.more, (q if op.table is None else _looked_up(op, q)).double()).to(torch.int8)


def _sums(image: Tensor, codes: Tensor, mantissas: Tensor, op: IntegerOp) -> Tensor:
    # float64 adds integers below 2^53 exactly, in whatever order.
    return spread_layer(image, codes.double(), op.more).to(torch.int64) * mantissas.view(-1, 1, 1)


def _table(op: IntegerOp, inputs: list[Tensor]) -> Tensor:
    return _looked_up(op, inputs[0])


def _copy(op: IntegerOp, inputs: list[Tensor]) -> Tensor:
    return broadcast(op.output, inputs)[0].expand(-1, *op.output.meta.shape)


def _add(op: IntegerOp, inputs: list[Tensor]) -> Tensor:
    one, other = (x.expand(-1, *op.output.meta.shape) for x in broadcast(op.output, _less_zero(op, inputs)))
    return _finish(op, one * op.factors[0] + other * op.factors[1])


def _multiply(op: IntegerOp, inputs: list[Tensor]) -> Tensor:
    one, other = broadcast(op.output, _less_zero(op, inputs))
    return _finish(op, one * other * op.factors[0])


def _mean(op: IntegerOp, inputs: list[Tensor]) -> Tensor:
    [x] = _less_zero(op, inputs)
    return _finish(op, x.sum([dim + 1 for dim in op.more["dims"]]) * op.factors[0])


def _largest(op: IntegerOp, inputs: list[Tensor]) -> Tensor:
    return inputs[0].amax([dim + 1 for dim in op.more["dims"]])


def _mean_pool(op: IntegerOp, inputs: list[Tensor]) -> Tensor:
    [x] = _less_zero(op, inputs)
    total, counts = sum_pool(op.more, x.squeeze(1))
    return _finish(op, total * torch.tensor(op.factors)[counts - 1])


def _largest_pool(op: IntegerOp, inputs: list[Tensor]) -> Tensor:
    return largest_pool(op.more, inputs[0].squeeze(1))


KINDS: dict[str, Callable[[IntegerOp, list[Tensor]], Tensor]] = {
    **{"layer": _layer, "table": _table, "copy": _copy, "add": _add, "multiply": _multiply},
    **{"mean": _mean, "largest": _largest, "mean_pool": _mean_pool, "largest_pool": _largest_pool},
    **{kind: form.integers for kind, form in FORMS.items()},
}
