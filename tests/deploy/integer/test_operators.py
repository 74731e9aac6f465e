"""Operators of sequences beside exact rationals and Python's integers."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.deploy.integer.oracle import shifted
from ttq_plugin.deploy.integer.arithmetic import Affine
from ttq_plugin.deploy.integer.operators import attention, norms, recurrent
from ttq_plugin.deploy.integer.operators.embedding import spelled
from ttq_plugin.deploy.integer.operators.form import Lowering, fresh
from ttq_plugin.deploy.integer.records import IntegerOp, Op

INT8 = st.integers(-128, 127)
SCALES = st.floats(1e-3, 1.0)


def lowered(form, kind, shapes, grids, target, more, tensors=None) -> IntegerOp:
    """An operation of these shapes on these grids."""
    views = [fresh(shape) for shape in shapes]
    op = Op(kind, views[-1], views[:-1], more)
    fields = {"kind": kind, "output": op.output, "inputs": op.inputs, "more": more, "zero": target.zero}
    fields |= {"zeros": tuple(grid.zero for grid in grids)}
    return form.lower(Lowering(tensors or {}, op, grids, target, None, True, fields))


def clamp(value: int) -> int:
    return max(-128, min(127, value))


@settings(max_examples=60, deadline=None)
@given(st.lists(INT8, min_size=1, max_size=9), SCALES, INT8)
def test_softmax_is_within_a_step_of_the_exact_shares(row, scale, zero):
    target = Affine(1 / 255, -128)
    more = {"dim": 0, "causal": False}
    op = lowered(attention.SOFTMAX, "softmax", [(len(row),)] * 2, [Affine(scale, zero)], target, more)
    found = attention.SOFTMAX.integers(op, [torch.tensor([row], dtype=torch.int8)])[0].tolist()
    powers = [math.exp(scale * (q - max(row))) for q in row]
    for q, power in zip(found, powers, strict=True):
        assert abs((q + 128) - 255 * power / sum(powers)) <= 0.52
    table = op.more["powers"].tolist() + [0] * 256
    total = sum(table[max(row) - q] for q in row)
    factor = (op.factors[0] << 15) // total
    assert found == [clamp(-128 + shifted(table[max(row) - q] * factor, op.shift)) for q in row]


def test_softmax_of_nothing_that_is_seen_is_zero():
    op = lowered(attention.SOFTMAX, "softmax", [(2, 3), (2, 3), (2, 3)], [Affine(0.1, 0), Affine(1.0, 0)],
                 Affine(1 / 200, -128), {"dim": 1, "causal": False})  # fmt: skip
    hidden = torch.tensor([[[1, 1, 1], [0, 1, 0]]], dtype=torch.int8)
    found = attention.SOFTMAX.integers(op, [torch.zeros(1, 2, 3, dtype=torch.int8), hidden])
    assert found.tolist() == [[[-128, -128, -128], [-28, -128, -28]]]


@settings(max_examples=60, deadline=None)
@given(st.data(), SCALES, SCALES, st.floats(0.01, 20), INT8, INT8)
def test_products_are_the_nearest_integers(data, one, other, step, zero, offset):
    inner = data.draw(st.integers(1, 5))
    a, b = ([data.draw(INT8) for _ in range(inner)] for _ in range(2))
    grids, target = [Affine(one, zero), Affine(other, offset)], Affine(step, zero)
    op = lowered(attention.PRODUCT, "product", [(1, inner), (inner, 1), (1, 1)], grids, target, {"scale": 0.5})
    values = torch.tensor([[a]], dtype=torch.int8), torch.tensor([[[v] for v in b]], dtype=torch.int8)
    found = int(attention.PRODUCT.integers(op, list(values)))
    total = sum((x - zero) * (y - offset) for x, y in zip(a, b, strict=True))
    exact = Fraction(total) * Fraction(one * other * 0.5 / step)
    assert found == clamp(zero + shifted(total * op.factors[0], op.shift))
    assert abs(found - clamp(zero + round(exact))) <= 1


@given(st.integers(0, 1 << 60))
def test_one_over_a_root_is_exact_to_fifteen_bits(squares):
    factor, shift = (int(each) for each in norms.inverse_root(torch.tensor(squares)))
    squares = max(squares, 1)
    assert 1 <= shift <= 62 and 0 < factor <= 1 << 30
    # (factor / 2^shift)^2 = 2^32 / squares, exactly but for the bits that the root leaves out
    ratio = Fraction(factor, 1 << shift) ** 2 * squares / (1 << 32)
    assert abs(ratio - 1) < Fraction(1, 1 << 13)


@settings(max_examples=60, deadline=None)
@given(st.lists(INT8, min_size=2, max_size=8), SCALES, INT8, st.booleans(), st.floats(0.02, 0.1))
def test_norms_are_within_a_step_of_the_exact_ones(row, scale, zero, centred, step):
    n = len(row)
    weight, bias = torch.linspace(-1.5, 2, n), torch.linspace(0.5, -1, n)
    more = {"weight": "w", "bias": "b" if centred else None, "width": n, "eps": 1e-5, "centred": centred}
    target, tensors = Affine(step, 3), {"w": weight, "b": bias}
    op = lowered(norms.FORM, "normalise", [(1, n)] * 2, [Affine(scale, zero)], target, more, tensors)
    found = norms.FORM.integers(op, [torch.tensor([[row]], dtype=torch.int8)]).reshape(-1).tolist()
    u = [scale * (q - zero) for q in row]
    mean = sum(u) / n if centred else 0.0
    root = math.sqrt(sum((x - mean) ** 2 for x in u) / n + 1e-5)
    for at, q in enumerate(found):
        exact = (u[at] - mean) / root * float(weight[at]) + (float(bias[at]) if centred else 0)
        assert abs(q - max(-128, min(127, 3 + exact / step))) <= 0.56


@given(st.integers(-70_000, 70_000))
def test_curves_are_near_the_functions(a):
    gate = torch.tensor(a)
    assert abs(int(recurrent.bent(gate)) / 32767 - math.tanh(a / 2048)) < 4.5e-4
    assert abs(int(recurrent.opened(gate)) / 32768 - 1 / (1 + math.exp(-a / 2048))) < 3e-4
    assert int(recurrent.bent(-gate)) == -int(recurrent.bent(gate))


GATES = st.integers(-32767, 32767)


@given(st.tuples(GATES, GATES, GATES, GATES), GATES, st.integers(4, 12))
def test_a_cell_is_near_the_real_one(gates, state, bits):
    i, f, g, o = (a / 2048 for a in gates)
    given_, cell = recurrent.lstm([torch.tensor(a) for a in gates], torch.tensor(state), bits)
    exact = state / 2**bits / (1 + math.exp(-f)) + math.tanh(g) / (1 + math.exp(-i))
    limit = 32767 / 2**bits
    assert (
        abs(int(cell) / 2**bits - max(-limit, min(limit, exact))) < 3e-4 * (1 + abs(state) / 2**bits) + 1.01 / 2**bits
    )
    real = math.tanh(int(cell) / 2**bits) / (1 + math.exp(-o))
    assert abs(int(given_) / 2**30 - real) < 9e-4
    assert abs(int(given_)) <= 1 << 30


@given(st.tuples(GATES, GATES, GATES, GATES), GATES)
def test_a_state_of_a_gru_is_near_the_real_one(gates, state):
    r, z, n, m = (a / 2048 for a in gates)
    found = int(recurrent.gru([torch.tensor(a) for a in gates], torch.tensor(state)))
    update = 1 / (1 + math.exp(-z))
    exact = (1 - update) * math.tanh(n + m / (1 + math.exp(-r))) + update * state / 32768
    assert abs(found / 32768 - exact) < 6e-3 and abs(found) <= 32767


@given(st.lists(st.integers(0, (1 << 24) - 1), min_size=1, max_size=5))
def test_indices_are_spelled_with_the_lowest_byte_first(indices):
    found = spelled(torch.tensor([indices]), 3)[0].tolist()
    read = [byte & 255 for byte in found]
    assert [int.from_bytes(bytes(read[at : at + 3]), "little") for at in range(0, len(read), 3)] == indices


def test_cells_have_room_for_twice_what_was_seen():
    for largest, bits in ((1.0, 12), (3.9, 12), (4.2, 11), (100.0, 7), (1e6, 4)):
        assert recurrent._cell_bits(Affine.of_range(-largest, largest)) == bits
    assert recurrent._cell_bits(None) == 12
