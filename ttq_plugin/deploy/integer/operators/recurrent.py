"""LSTM, GRU and RNN layers in one direction, from a state of zeros.

A gate's total is that of two layers, of the input and of the state before, on one shift; it is rounded to multiples of
2^-11 within int16. The hyperbolic tangent has 129 entries, 1/16 apart, between which it is linear, and the sigmoid is
``(1 + tanh(x/2)) / 2``; both give multiples of 2^-15. An LSTM's cells are int16 multiples of a power of two that
calibration finds, a GRU's state is an int16 multiple of 2^-15, and what a layer gives, and is given back, is int8.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ttq_plugin.deploy.integer.arithmetic import Affine, biases, mantissas
from ttq_plugin.deploy.integer.operators.form import Form, Lowering, Maker, Seen, finished, nearest
from ttq_plugin.deploy.integer.records import IntegerOp, Op, Weights
from ttq_plugin.deploy.integer.weights import check_sums, weight_codes
from ttq_plugin.deploy.program.steps import Step, View

GATE_BITS = 11
"""Fractional bits of a gate before its function."""

ONE_BITS = 15
"""Fractional bits of a function's result."""

ONE = 1 << ONE_BITS
LARGEST = ONE - 1
GRID_BITS = 4
"""The curve's entries are 1/16 apart."""

CURVE = torch.round(LARGEST * torch.tanh(torch.arange(129, dtype=torch.float64) / 2**GRID_BITS)).to(torch.int64)
"""The hyperbolic tangent from 0 to 8."""

CELL_BITS = (GRID_BITS, 12)
"""Least and most fractional bits of an LSTM's cell."""

CELL_ROOM = 2.0
"""How far beyond the largest cell in calibration a cell may go."""

MANTISSA_BITS = 28
"""Four products with int32 sums and two biases stay below 2^62."""

BIAS_ROOM = 60
"""Bits that no bias may exceed."""


def emit(made: Maker, step: Step, inputs: list[View]) -> None:
    """A layer in one direction."""
    made.emit("recur", step, inputs)


def _read(tensors: dict[str, Tensor], more: dict[str, Any]) -> list[Tensor]:
    """Input and state matrix, and their biases (or zeros), float64 in torch's order of gates."""
    weights = [tensors[more[word]].double() for word in ("input_weight", "hidden_weight")]
    zeros = torch.zeros(len(weights[0]), dtype=torch.float64)
    return [*weights, *(tensors[more[w]].double() if more[w] else zeros for w in ("input_bias", "hidden_bias"))]


def _order(length: int, backward: int) -> range:
    return range(length - 1, -1, -1) if backward else range(length)


def _real(tensors: dict[str, Tensor], op: Op, inputs: list[Tensor], seen: Seen) -> Tensor:
    x, (w, u, b, d) = inputs[0][:, 0], _read(tensors, op.more)
    gates = op.more["gates"]
    h = x.new_zeros(len(x), u.shape[1])
    c = h
    rows: dict[int, Tensor] = {}
    for at in _order(x.shape[1], op.more["backward"]):
        one, other = (x[:, at] @ w.T + b).chunk(gates, 1), (h @ u.T + d).chunk(gates, 1)
        if gates == 4:
            i, f, g, o = (a + e for a, e in zip(one, other, strict=True))
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            seen(op, c)
        elif gates == 3:
            r, z = torch.sigmoid(one[0] + other[0]), torch.sigmoid(one[1] + other[1])
            h = (1 - z) * torch.tanh(one[2] + r * other[2]) + z * h
        else:
            h = torch.tanh(one[0] + other[0])
        rows[at] = h
    return torch.stack([rows[at] for at in range(x.shape[1])], 1)[:, None]


def _lower(low: Lowering) -> IntegerOp:
    more, target = low.op.more, low.target
    gates, width = more["gates"], int(low.op.inputs[0].meta.shape[-1])
    *matrices, one, other = _read(low.tensors, more)
    if gates < 3 or gates == 4:
        one, other = one + other, torch.zeros_like(other)
    else:  # what the reset gate multiplies has a bias of its own
        last = torch.arange(len(one)) >= len(one) // 3 * 2
        one, other = one + torch.where(last, 0.0, other), torch.where(last, other, 0.0)
    hidden = len(one) // gates
    turned = torch.arange(len(one)).view(gates, hidden).t().reshape(-1)  # a unit's gates one behind the other
    names = [more["input_weight"], more["hidden_weight"]]
    coded = [weight_codes(matrix.float(), low.ternary) for matrix in matrices]
    for name, matrix, (_, scales) in zip(names, matrices, coded, strict=True):
        check_sums(name, matrix, len(scales) == 2)
    step = 2.0**-GATE_BITS
    sources = [low.sources[0], target]
    factors = [torch.stack(s) * grid.scale / step for (_, s), grid in zip(coded, sources, strict=True)]
    largest = max(float(bias.abs().max()) for bias in (one, other)) / step
    found, shift = mantissas(torch.cat(factors), MANTISSA_BITS, BIAS_ROOM - max(1, int(largest + 1).bit_length()))
    split = found.split([len(each) for each in factors])
    parts = tuple(
        _part(low, names[place], codes[turned], numbers[:, turned], bias[turned] / step, shift, sources[place])
        for place, ((codes, _), numbers, bias) in enumerate(zip(coded, split, (one, other), strict=True))
    )
    steps = (int(low.given["inputs"][0].meta.stride(-1)), 1)
    parts[0].more.update(steps=(steps[0], 0, 1), channels=width)
    parts[1].more.update(steps=(steps[1], 0, 1), channels=hidden)
    bits = 2 * ONE_BITS if gates == 4 else ONE_BITS
    factor, right = mantissas(torch.tensor([2.0**-bits / target.scale], dtype=torch.float64))
    inner = {"parts": parts, "cell_bits": _cell_bits(low.inner)}
    return low.made(factors=tuple(factor.tolist()), shift=right, more=inner)


def _part(
    low: Lowering, name: str, codes: Tensor, factors: Tensor, bias: Tensor, shift: int, source: Affine
) -> IntegerOp:
    """One of the two matrices as a layer of one row, without its rounding."""
    written, bits = biases(bias, shift) if bool((bias != 0).any()) else (torch.zeros(0, dtype=torch.int64), 0)
    if bool((factors == factors[:, :1]).all()):
        factors = factors[:, :1]
    weights = Weights(codes, len(factors) == 2, factors[0], factors[1] if len(factors) == 2 else None, written, bits)
    more = {"weight": name, "groups": 1, "rows": 1, "columns": 1, "kernel": (1, 1), "stride": (1, 1)}
    more |= {"padding": (0, 0), "dilation": (1, 1), "transposed_output": True, "out": (1, 1), "pool": None}
    op = low.op
    return IntegerOp("layer", op.output, op.inputs, more, (source.zero,), 0, shift=shift, weights=weights)


def _cell_bits(grid: Affine | None) -> int:
    """Fractional bits of cells that calibration saw on a grid."""
    if grid is None:
        return CELL_BITS[1]
    largest = max(abs(end - grid.zero) for end in (-128, 127)) * grid.scale * CELL_ROOM
    return max(CELL_BITS[0], min(CELL_BITS[1], math.floor(math.log2(LARGEST / largest))))


# On integers.


def total_of(part: IntegerOp, q: Tensor) -> Tensor:
    """A matrix's share of the gates.

    Args:
        part: The matrix.
        q: int8 (batch, width).

    Returns:
        int64 (batch, gates * hidden), before rounding; a unit's gates lie one behind the other.
    """
    weights = part.weights
    assert weights is not None
    x, codes = q.double() - part.zeros[0], weights.codes.double()
    total = _share(x, codes.clamp(min=0) if weights.ternary else codes, weights.positive)
    if weights.negative is not None:
        total = total - _share(x, (-codes).clamp(min=0), weights.negative)
    if weights.bias.numel():
        total = total + (weights.bias << (part.shift - weights.bias_bits))
    return total


def _share(x: Tensor, codes: Tensor, factors: Tensor) -> Tensor:
    # float64 adds integers below 2^53 exactly, in whatever order.
    return (x @ codes.T).to(torch.int64) * factors


def curve(a: Tensor, bits: int) -> Tensor:
    """The hyperbolic tangent in multiples of 2^-15.

    Args:
        a: int64.
        bits: Fractional bits of ``a`` beyond the four that choose an entry.

    Returns:
        int64 of the same shape.
    """
    size = a.abs()
    place = (size >> bits).clamp(max=len(CURVE) - 1)
    rest = torch.where(place == len(CURVE) - 1, 0, size & ((1 << bits) - 1))
    low, high = CURVE[place], CURVE[(place + 1).clamp(max=len(CURVE) - 1)]
    value = ((low << bits) + (high - low) * rest + ((1 << bits) >> 1)) >> bits
    return torch.where(a < 0, -value, value)


def bent(a: Tensor) -> Tensor:
    """The hyperbolic tangent of a gate."""
    return curve(a, GATE_BITS - GRID_BITS)


def opened(a: Tensor) -> Tensor:
    """The sigmoid of a gate, from 0 to 2^15."""
    return (ONE + 1 + curve(a, GATE_BITS + 1 - GRID_BITS)) >> 1


def rounded_gate(total: Tensor, shift: int) -> Tensor:
    """A gate's total in multiples of 2^-11, within int16."""
    return nearest(total, shift).clamp(-LARGEST, LARGEST)


def lstm(a: list[Tensor], state: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """What a cell gives, in multiples of 2^-30, and the cell after; gates are input, forget, cell, output."""
    put = nearest(opened(a[0]) * bent(a[2]), 2 * ONE_BITS - ONE_BITS - bits)
    cell = nearest(opened(a[1]) * state + put, ONE_BITS).clamp(-LARGEST, LARGEST)
    return opened(a[3]) * curve(cell, bits - GRID_BITS), cell


def gru(a: list[Tensor], state: Tensor) -> Tensor:
    """The state after, in multiples of 2^-15; gates are reset, update, and both parts of the new state."""
    new = bent(a[2] + nearest(opened(a[0]) * a[3], ONE_BITS))
    update = opened(a[1])
    return nearest((ONE - update) * new + update * state, ONE_BITS)


def _integers(op: IntegerOp, inputs: list[Tensor]) -> Tensor:
    x, more = inputs[0][:, 0], op.more
    parts, gates = more["parts"], more["gates"]
    shift, hidden = parts[0].shift, parts[1].more["channels"]
    state = torch.zeros(len(x), hidden, dtype=torch.int64)
    h = torch.full((len(x), hidden), op.zero, dtype=torch.int8)
    rows: dict[int, Tensor] = {}
    for at in _order(x.shape[1], more["backward"]):
        one, other = (
            total_of(part, q).view(len(x), hidden, gates) for part, q in zip(parts, (x[:, at], h), strict=True)
        )
        both = [rounded_gate(each, shift) for each in (one + other).unbind(-1)]
        if gates == 4:
            given, state = lstm(both, state, more["cell_bits"])
        elif gates == 3:
            both[2:] = [rounded_gate(each[..., 2], shift) for each in (one, other)]
            given = state = gru(both, state)
        else:
            given = bent(both[0])
        h = rows[at] = finished(op, given * op.factors[0])
    return torch.stack([rows[at] for at in range(x.shape[1])], 1)[:, None]


FORM = Form(_real, _lower, _integers)
