"""Comparisons, truths and what is chosen by them, as steps: a truth is the number 1, a falsehood 0."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from ttq_plugin.deploy.program.builder import Builder, Operation
from ttq_plugin.deploy.program.operators import kind_of
from ttq_plugin.deploy.program.parts import LOWEST
from ttq_plugin.deploy.program.steps import View

COMPARISONS = {
    "gt": "GREATER",
    "ge": "GREATER_EQUAL",
    "lt": "LESS",
    "le": "LESS_EQUAL",
    "eq": "EQUAL",
    "ne": "DIFFERENT",
}
TRUTHS = {
    **dict.fromkeys(("__and__", "bitwise_and", "logical_and"), "MULTIPLY"),
    **dict.fromkeys(("__or__", "bitwise_or", "logical_or"), "MAXIMUM"),
    **dict.fromkeys(("__xor__", "bitwise_xor", "logical_xor"), "DIFFERENT"),
}


def compare(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Two numbers, or each number and a constant."""
    return build.map(COMPARISONS[kind_of(node)], [_number(build, node.args[place]) for place in (0, 1)])


def _check_truths(build: Builder, node: fx.Node) -> None:
    for each in node.all_input_nodes:
        if each.meta["val"].dtype != torch.bool:
            raise build.missing(node, f"{kind_of(node)} of numbers")


def combine(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """And, or, either of truths."""
    _check_truths(build, node)
    return build.map(TRUTHS[kind_of(node)], [build.value(node.args[place]) for place in (0, 1)])


def opposite(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Not."""
    _check_truths(build, node)
    return build.map("EQUAL", [build.value(given["self"]), build.value(0.0)])


def choose(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """One number where a truth holds, another where it does not."""
    if "other" not in given:
        raise build.missing(node, "where without values")
    return _chosen(build, node, build.value(given["condition"]), given["self"], given["other"])


def fill(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """A number wherever a truth holds; at places that are known beforehand as integer networks can do it, too."""
    mask, filled = build.value(given["mask"]), build.value(given["value"])
    if mask.buffer.constant is None or filled.buffer.constant is None:
        return _chosen(build, node, mask, given["value"], given["self"])
    return _filled(build, node, build.value(given["self"]), build.actual(mask).bool(), filled)


def _filled(build: Builder, node: fx.Node, source: View, places: Tensor, filled: View) -> View:
    """Write the operation as a factor and a term, or as a term alone that hides the old value."""
    number = build.actual(filled).reshape(()).clamp(min=LOWEST)
    if number > LOWEST:
        source = build.map("MULTIPLY", [source, build.constant(f"{node.name} kept", (~places).float())])
    return build.map("ADD", [source, build.constant(f"{node.name} terms", torch.where(places, number, 0.0))])


def _chosen(build: Builder, node: fx.Node, mask: View, one: Any, other: Any) -> View:
    """What is not chosen becomes 0, whatever it was, so that the sum is what is chosen."""
    kept = build.map("KEEP", [_number(build, one), mask])
    rest = build.map("DROP", [_number(build, other), mask])
    whole = next((part for part in (kept, rest) if part.meta.shape == node.meta["val"].shape), None)
    return build.map("ADD", [kept, rest], into=whole)


def _number(build: Builder, value: Any) -> View:
    """A value; infinity, which no constant in C is, is computed."""
    if isinstance(value, int | float) and math.isinf(value):
        return build.map("DIVIDE", [build.value(math.copysign(1.0, value)), build.value(0.0)])
    return build.value(value)


MASKS: dict[str, Operation] = {
    **dict.fromkeys(COMPARISONS, compare),
    **dict.fromkeys(TRUTHS, combine),
    **{"logical_not": opposite, "bitwise_not": opposite, "where": choose, "masked_fill": fill},
}
