"""LayerNorm, RMSNorm and normalisation of groups, by an integer square root.

For a row of n numbers u = q - zero with sum S and sum of squares Q, the result is ``c / sqrt(T)`` times a weight, plus
a bias, where ``c = n u - S`` and ``T = n Q - S^2 + eps n^2 / scale^2`` are exact integers (S counts as 0 in RMSNorm).
The root is taken of T's leading 32 bits: ``T ~ t 4^j``, ``g = floor(sqrt(t))``, ``R = floor(2^45 / g)``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ttq_plugin.deploy.integer.arithmetic import TOTAL_BITS, biases, mantissas
from ttq_plugin.deploy.integer.operators.form import Form, Lowering, Maker, Seen, finished, nearest
from ttq_plugin.deploy.integer.records import IntegerOp, Op
from ttq_plugin.deploy.program.steps import Step, View
from ttq_plugin.errors import InputError

ROOT_BITS = 45
"""Bits of the numerator that a root divides."""

FRACTION = 16
"""Fractional bits of a normalised number."""

WEIGHT_BITS = 15
"""Bits of the largest weight's mantissa."""

WIDEST = 1 << 15
"""Numbers of a row whose squares are added up in int32."""


def emit(made: Maker, step: Step, inputs: list[View]) -> None:
    """A normalisation of rows."""
    if step.more["width"] > WIDEST:
        raise made.missing(step, f"a normalisation of more than {WIDEST} numbers")
    made.emit("normalise", step, inputs, more={"centred": step.more.get("centred", True)})


def _real(tensors: dict[str, Tensor], op: Op, inputs: list[Tensor], seen: Seen) -> Tensor:
    more = op.more
    rows = inputs[0].reshape(len(inputs[0]), -1, more["width"])
    weight, bias = (tensors[more[name]].double().reshape(-1) if more[name] else None for name in ("weight", "bias"))
    if more["centred"]:
        return F.layer_norm(rows, (more["width"],), weight, bias, more["eps"])
    found = rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + more["eps"])
    return found if weight is None else found * weight


def _lower(low: Lowering) -> IntegerOp:
    more, scale = low.op.more, low.target.scale
    width = more["width"]
    weight = low.tensors[more["weight"]].double().reshape(-1) if more["weight"] else torch.ones(1, dtype=torch.float64)
    bias = low.tensors[more["bias"]].double().reshape(-1) / scale if more["bias"] else torch.zeros(1)
    room = TOTAL_BITS - max(1, int(bias.abs().max() + 1).bit_length())
    found, shift = mantissas(weight / scale / 2**FRACTION, WEIGHT_BITS, room)
    if bool((found == found[0]).all()):
        found = found[:1]
    terms, bits = biases(bias, shift) if bool((bias != 0).any()) else (torch.zeros(0, dtype=torch.int64), 0)
    constants: dict[str, Any] = {"terms": terms, "terms_bits": bits, "epsilon": _epsilon(low, width)}
    return low.made(factors=tuple(found.tolist()), shift=shift, more=constants)


def _epsilon(low: Lowering, width: int) -> tuple[int, int]:
    """``eps n^2 / scale^2`` as an integer below 2^30 and a left shift."""
    exact = low.op.more["eps"] * (width / low.sources[0].scale) ** 2
    shift = max(0, int(exact).bit_length() - 30)
    if int(exact).bit_length() > 60:
        raise InputError(
            f"a normalisation's eps of {low.op.more['eps']} is far larger than the squares of its inputs, which has "
            f"no integer form; use a smaller eps, or export it to c."
        )
    return round(exact / 2**shift), shift


def _integers(op: IntegerOp, inputs: list[Tensor]) -> Tensor:
    more = op.more
    u = inputs[0].reshape(len(inputs[0]), -1, more["width"]).to(torch.int64) - op.zeros[0]
    total = u.sum(-1, keepdim=True) if more["centred"] else torch.zeros_like(u[..., :1])
    mantissa, shift = more["epsilon"]
    squares = more["width"] * u.square().sum(-1, keepdim=True) - total.square() + (mantissa << shift)
    root, places = inverse_root(squares)
    normal = nearest((more["width"] * u - total) * root, places)
    result = normal * torch.tensor(op.factors)
    if more["terms"].numel():
        result = result + (more["terms"] << (op.shift - more["terms_bits"]))
    return finished(op, result)


def inverse_root(squares: Tensor) -> tuple[Tensor, Tensor]:
    """One over the root of integers.

    Args:
        squares: int64, from 0 to 2^61; 0 counts as 1.

    Returns:
        int64 factors and right shifts of the same shape: ``2^16 / sqrt(squares) ~ factor / 2^shift``.
    """
    t, j = squares.clamp(min=1), torch.zeros_like(squares)
    while bool((large := t >= 1 << 32).any()):
        t, j = torch.where(large, t >> 2, t), j + large.to(torch.int64)
    while bool((small := t < 1 << 30).any()):
        t, j = torch.where(small, t << 2, t), j - small.to(torch.int64)
    root = t.double().sqrt().floor().to(torch.int64)
    return (1 << ROOT_BITS) // root, ROOT_BITS - FRACTION + j


FORM = Form(_real, _lower, _integers)
