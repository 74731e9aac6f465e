"""Products of two computed matrices, softmax, and attention, which is made of both.

Softmax: with d the distance of a number from the largest of its row, ``E[d] = round(32767 exp(-scale d))`` from a
table, S the row's sum of these, and a mantissa m over 2^shift for one over the result's scale, the result is
``zero + round(E[d] R / 2^(shift + 15))`` with ``R = floor(m 2^15 / S)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ttq_plugin.deploy.integer.arithmetic import mantissas
from ttq_plugin.deploy.integer.operators.form import Form, Lowering, Maker, Seen, finished, fresh
from ttq_plugin.deploy.integer.records import IntegerOp, Op
from ttq_plugin.deploy.program.steps import Buffer, Step, View

ONE = (1 << 15) - 1
"""The integer that represents exp(0)."""

DIVIDED_BITS = 15
"""How far a numerator is shifted before it is divided by a sum."""

HIDDEN = -1e4
"""Mask terms at or below this value hide a position, because their exp is negligible."""

LONGEST = 1 << 16
"""Numbers of a row whose powers are added up in int32."""

DEEPEST = ((1 << 31) - 1) // (255 * 255)
"""Products that are added up in int32."""


def attend(made: Maker, step: Step, inputs: list[View]) -> None:
    """Attention: products with the keys, softmax, products with the values; several queries may share a key."""
    query, key, value, *mask = inputs
    shape = (*query.meta.shape[:-1], key.meta.shape[-2])
    each = key.meta.shape[1]
    queries = View(query.buffer, query.meta.unflatten(1, (each, -1)))
    keys = View(key.buffer, key.meta.unsqueeze(2).transpose(-2, -1))
    values = View(value.buffer, value.meta.unsqueeze(2))
    product(made, _step("product", shape, {"scale": step.more["scale"]}), [queries, keys])
    softmax(made, _step("softmax", shape, {"dim": 3, "causal": step.more["causal"]}), [_last(made), *mask])
    rows = _last(made)
    shared = View(rows.buffer, rows.meta.unflatten(1, (each, -1)))
    product(made, Step("product", step.output, []), [shared, values])


def _step(kind: str, shape: tuple[int, ...], more: dict[str, float]) -> Step:
    return Step(kind, fresh(shape), [], more)


def _last(made: Maker) -> View:
    return made.ops[-1].output


def product(made: Maker, step: Step, inputs: list[View]) -> None:
    """Products of pairs of matrices."""
    if inputs[0].meta.shape[-1] > DEEPEST:
        raise made.missing(step, f"sums of more than {DEEPEST} products of computed numbers")
    made.emit("product", step, inputs, more={"scale": step.more.get("scale", 1.0)})


def softmax(made: Maker, step: Step, inputs: list[View]) -> None:
    """Softmax over one dimension; a mask is a constant that hides places or has terms that are added before."""
    [source, *masks] = inputs
    dim = step.more["dim"] % source.meta.dim()
    more = {"dim": dim, "causal": step.more.get("causal", False)}
    if source.meta.shape[dim] > LONGEST:
        raise made.missing(step, f"a softmax of more than {LONGEST} numbers")
    kept: list[View] = []
    for mask in masks:
        if mask.buffer.constant is None:
            raise made.missing(step, "attention with a computed mask")
        source, hidden = _without_terms(made, source, mask)
        if hidden is not None and _is_causal(made, hidden, dim):
            more["causal"] = True
        elif hidden is not None:
            kept.append(hidden)
    made.emit("softmax", step, [source, *kept], more=more)


def _without_terms(made: Maker, source: View, mask: View) -> tuple[View, View | None]:
    """The scores with the mask's terms added, and which places it hides; None for no place."""
    name = str(mask.buffer.constant)
    terms = made.program.tensors[name].double()
    hidden = terms <= HIDDEN
    rest = torch.where(hidden, 0.0, terms)
    if bool(rest.any()):
        made.program.tensors[f"{name} terms"] = rest
        of_terms = View(Buffer(mask.buffer.size, f"{name} terms"), mask.meta)
        made.emit("add", _step("add", tuple(source.meta.shape), {"sign": 1}), [source, of_terms])
        source = _last(made)
    if not bool(hidden.any()):
        return source, None
    made.program.tensors[f"{name} hidden"] = hidden.double()
    return source, View(Buffer(mask.buffer.size, f"{name} hidden"), mask.meta.expand(source.meta.shape))


def _is_causal(made: Maker, hidden: View, dim: int) -> bool:
    """Whether each row sees what came before it and itself."""
    meta = hidden.meta
    flat = made.program.tensors[str(hidden.buffer.constant)].reshape(-1)
    values = flat.as_strided(meta.shape, meta.stride(), meta.storage_offset())
    after = torch.ones(meta.shape[-2:], dtype=torch.bool).triu(1)
    return dim == meta.dim() - 1 and bool((values.bool() == after).all())


# Products.


def _real_product(tensors: dict[str, Tensor], op: Op, inputs: list[Tensor], seen: Seen) -> Tensor:
    found: Tensor = inputs[0] @ inputs[1] * op.more["scale"]
    return found


def _lower_product(low: Lowering) -> IntegerOp:
    factor = low.sources[0].scale * low.sources[1].scale * low.op.more["scale"] / low.target.scale
    found, shift = mantissas(torch.tensor([factor], dtype=torch.float64))
    return low.made(factors=tuple(found.tolist()), shift=shift)


def _integer_product(op: IntegerOp, inputs: list[Tensor]) -> Tensor:
    one, other = (x.double() - zero for x, zero in zip(inputs, op.zeros, strict=True))
    # float64 adds integers below 2^53 exactly, in whatever order.
    return finished(op, (one @ other).to(torch.int64) * op.factors[0])


# Softmax.


def _hidden(op: Op | IntegerOp, scores: Tensor, masks: list[Tensor]) -> Tensor:
    """Which places count as none; (batch, ...) as the scores, the dimension of softmax last."""
    dim = op.more["dim"] + 1
    found = torch.zeros(scores.shape, dtype=torch.bool)
    for mask in masks:
        found |= mask != 0
    found = found.movedim(dim, -1)
    if op.more["causal"]:
        found = found | torch.ones(found.shape[-2:], dtype=torch.bool).triu(1)
    return found


def _real_softmax(tensors: dict[str, Tensor], op: Op, inputs: list[Tensor], seen: Seen) -> Tensor:
    [scores, *masks] = inputs
    dim = op.more["dim"] + 1
    rows = scores.movedim(dim, -1).masked_fill(_hidden(op, scores, masks), -torch.inf)
    return torch.softmax(rows, -1).nan_to_num(0.0).movedim(-1, dim)


def _lower_softmax(low: Lowering) -> IntegerOp:
    powers = torch.exp(-low.sources[0].scale * torch.arange(256, dtype=torch.float64))
    entries = torch.round(ONE * powers).to(torch.int64)
    entries = entries[: int(torch.count_nonzero(entries))]
    found, shift = mantissas(torch.tensor([1 / low.target.scale], dtype=torch.float64))
    return low.made(factors=tuple(found.tolist()), shift=shift + DIVIDED_BITS, more={"powers": entries})


def _integer_softmax(op: IntegerOp, inputs: list[Tensor]) -> Tensor:
    [scores, *masks] = inputs
    dim = op.more["dim"] + 1
    hidden = _hidden(op, scores, masks)
    rows = scores.movedim(dim, -1).to(torch.int64)
    distance = rows.masked_fill(hidden, -128).amax(-1, keepdim=True) - rows
    powers = torch.cat([op.more["powers"], torch.zeros(256 - len(op.more["powers"]), dtype=torch.int64)])
    found = powers[distance.clamp(min=0)].masked_fill(hidden, 0)
    total = found.sum(-1, keepdim=True)
    factor = torch.where(total > 0, (op.factors[0] << DIVIDED_BITS) // total.clamp(min=1), 0)
    return finished(op, found * factor).movedim(-1, dim)


PRODUCT = Form(_real_product, _lower_product, _integer_product)
SOFTMAX = Form(_real_softmax, _lower_softmax, _integer_softmax)
