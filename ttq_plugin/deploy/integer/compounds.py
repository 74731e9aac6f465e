"""Steps that are one operation together: softmax and RMSNorm, however a model writes them."""

from __future__ import annotations

from typing import Any

from ttq_plugin.deploy.integer.operators.attention import HIDDEN
from ttq_plugin.deploy.program.steps import Buffer, Program, Step, View

SOFTMAX = ("LARGEST", "SUBTRACT", "EXP", "SUM", "DIVIDE")
ROOTS = (("RSQRT", "MULTIPLY"), ("SQRT", "DIVIDE"))


def recognised(program: Program) -> list[Step]:
    """The steps of a program, with those that are one operation together as one.

    Args:
        program: A floating-point program.

    Returns:
        The steps in order; the program stays as it is.
    """
    found: list[Step] = []
    at = 0
    while at < len(program.steps):
        step, length = _softmax(program, at) or _rms_norm(program, at) or (program.steps[at], 1)
        if step.kind == "softmax" and found and _is_mask(program, found[-1], step, at + length):
            masked = found.pop()
            step.inputs = sorted(masked.inputs, key=lambda view: view.buffer.constant is not None)
        found.append(step)
        at += length
    return found


def _what(step: Step) -> str:
    return str(step.more.get("what", step.kind))


def _same(one: View, other: View) -> bool:
    a, b = one.meta, other.meta
    alike = a.shape == b.shape and a.stride() == b.stride() and a.storage_offset() == b.storage_offset()
    return one.buffer is other.buffer and alike


def _alone(program: Program, inner: list[Buffer], output: Buffer, after: int) -> bool:
    """Whether nothing reads what is computed on the way."""
    rest = {view.buffer for step in program.steps[after:] for view in step.inputs} | {program.output.buffer}
    return not (set(inner) - {output}) & rest


def _softmax(program: Program, at: int) -> tuple[Step, int] | None:
    steps = program.steps[at : at + len(SOFTMAX)]
    if tuple(map(_what, steps)) != SOFTMAX or steps[0].more["dims"] != steps[3].more["dims"]:
        return None
    largest, less, power, total, share = steps
    reads = [(less, largest.inputs[0], 0), (less, largest.output, 1), (power, less.output, 0)]
    reads += [(total, power.output, 0), (share, power.output, 0), (share, total.output, 1)]
    if len(largest.more["dims"]) != 1 or not all(_same(step.inputs[place], view) for step, view, place in reads):
        return None
    inner = [step.output.buffer for step in steps[:-1]]
    if not _alone(program, inner, share.output.buffer, at + len(steps)):
        return None
    [dim] = largest.more["dims"]
    return Step("softmax", share.output, [largest.inputs[0]], {"dim": dim}), len(steps)


def _is_mask(program: Program, step: Step, softmax: Step, after: int) -> bool:
    """Whether a step adds terms that hide places, and softmax alone reads the sum."""
    if _what(step) != "ADD" or len(step.inputs) != 2 or not _same(step.output, softmax.inputs[0]):
        return False
    constant = [view for view in step.inputs if view.buffer.constant is not None]
    others = [view for view in step.inputs if view.buffer.constant is None]
    if len(constant) != 1 or others[0].meta.shape != step.output.meta.shape:
        return False
    hides = bool((program.tensors[str(constant[0].buffer.constant)] <= HIDDEN).any())
    return hides and _alone(program, [step.output.buffer], softmax.output.buffer, after)


def _rms_norm(program: Program, at: int) -> tuple[Step, int] | None:
    steps = program.steps[at : at + 5]
    words = tuple(map(_what, steps))
    if words[:3] != ("MULTIPLY", "MEAN", "ADD") or words[3:] not in ROOTS:
        return None
    square, mean, moved, root, share = steps
    x = square.inputs[0]
    eps = _number(program, moved.inputs[1])
    dims, rank = mean.more["dims"], x.meta.dim()
    chained = (
        _same(x, square.inputs[1]) and _same(mean.inputs[0], square.output) and _same(moved.inputs[0], mean.output)
    )
    chained = chained and _same(root.inputs[0], moved.output) and _of(share, x, root.output)
    if not chained or eps is None or not x.contiguous or dims != set(range(rank - len(dims), rank)):
        return None
    more: dict[str, Any] = {"weight": None, "bias": None, "eps": eps, "centred": False}
    more["width"] = x.meta.shape[rank - len(dims) :].numel()
    last, length = share, len(steps)
    weight = _weight(program, at + length, share.output, more["width"])
    if weight is not None:
        more["weight"] = weight
        last, length = program.steps[at + length], length + 1
    inner = [step.output.buffer for step in program.steps[at : at + length - 1]]
    whole = last.output.contiguous and last.output.meta.shape == x.meta.shape
    if not whole or not _alone(program, inner, last.output.buffer, at + length):
        return None
    return Step("normalise", last.output, [x], more), length


def _of(step: Step, one: View, other: View) -> bool:
    a, b = step.inputs
    return (_same(a, one) and _same(b, other)) or (_what(step) == "MULTIPLY" and _same(a, other) and _same(b, one))


def _number(program: Program, view: View) -> float | None:
    if view.buffer.constant is None or view.buffer.size != 1:
        return None
    return float(program.tensors[view.buffer.constant].reshape(-1)[0])


def _weight(program: Program, at: int, normal: View, width: int) -> str | None:
    """The constant, one factor for each number of a row, that the step at a place multiplies with."""
    if at >= len(program.steps) or _what(program.steps[at]) != "MULTIPLY":
        return None
    views = program.steps[at].inputs
    constant = [view for view in views if view.buffer.constant is not None]
    others = [view for view in views if view.buffer.constant is None]
    if len(constant) != 1 or not _same(others[0], normal):
        return None
    whole = constant[0].contiguous and constant[0].buffer.size == width
    return constant[0].buffer.constant if whole and constant[0].meta.shape[-1] == width else None
