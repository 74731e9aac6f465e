"""All operations of a graph but layers, as steps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from ttq_plugin.deploy.program.builder import Builder, Operation
from ttq_plugin.deploy.program.masks import MASKS
from ttq_plugin.deploy.program.operators import IDLE, arguments, base_of, kind_of
from ttq_plugin.deploy.program.parts import PARTS
from ttq_plugin.deploy.program.picks import PICKS
from ttq_plugin.deploy.program.steps import Step, View

IDENTITIES = IDLE | {"lift_fresh_copy"}
VIEWS = {
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "transpose", "permute", "t", "select", "slice"),
    *(
        "unsqueeze",
        "squeeze",
        "expand",
        "expand_as",
        "contiguous",
        "detach",
        "alias",
        "view_as",
        "reshape_as",
        "narrow",
    ),
    *("split", "split_with_sizes", "chunk", "unbind", "movedim", "numpy_T", "mT", "swapaxes"),
}

UNARY = {
    **{"sigmoid": "SIGMOID", "tanh": "TANH", "silu": "SILU", "exp": "EXP", "sqrt": "SQRT", "rsqrt": "RSQRT"},
    **{"neg": "NEGATIVE", "log": "LOG", "erf": "ERF", "sin": "SIN", "cos": "COS", "abs": "FABS", "floor": "FLOOR"},
    "reciprocal": "RECIPROCAL",
}
BINARY = {"add": "ADD", "sub": "SUBTRACT", "mul": "MULTIPLY", "div": "DIVIDE", "maximum": "MAXIMUM"}
BINARY |= {"minimum": "MINIMUM", "__mul__": "MULTIPLY", "__add__": "ADD", "prelu": "STEEPER"}


def unary(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """A function of each number."""
    what = UNARY[base_of(kind_of(node))]
    return build.map(what, [build.value(node.args[0])], into=build.own(node, node.args[0]))


def binary(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """A function of two numbers; shapes broadcast."""
    kind = base_of(kind_of(node))
    if given.get("rounding_mode") is not None:
        raise build.missing(node, "div with rounding")
    one, other = (build.value(node.args[place]) for place in (0, 1))
    if kind == "prelu" and other.meta.numel() > 1:
        other = View(other.buffer, other.meta.view(-1, *[1] * (one.meta.dim() - 2)))
    if given.get("alpha", 1) != 1:
        other = build.map("MULTIPLY", [other, build.value(given["alpha"])])
    return build.map(BINARY[kind], [one, other], into=build.own(node, node.args[0]) or build.own(node, node.args[1]))


def reversed_subtract(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """``other - self``."""
    return build.map("SUBTRACT", [build.value(given["other"]), build.value(given["self"])])


def power(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Whole powers by products, which keep the sign."""
    base, exponent = build.value(given["self"]), given["exponent"]
    if exponent in {2, 3}:
        square = build.map("MULTIPLY", [base, base])
        return square if exponent == 2 else build.map("MULTIPLY", [square, base])
    return build.map("POWER", [base, build.value(exponent)])


def bounded(low: Any, high: Any) -> Operation:
    """Numbers between bounds, which are numbers or names of arguments."""

    def step(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
        result = build.value(given["self"])
        made = build.own(node, given["self"])
        for what, bound in (("MAXIMUM", low), ("MINIMUM", high)):
            limit = given[bound] if isinstance(bound, str) else bound
            if limit is not None and not (isinstance(limit, float) and math.isinf(limit)):
                result = made = build.map(what, [result, build.value(limit)], into=made)
        return result

    return step


def activate(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """ReLU or LeakyReLU."""
    source = build.packed(build.value(given["self"]))
    output = build.own(node, given["self"]) or build.new(node)
    slope = float(given.get("negative_slope", 0.0))
    build.steps.append(Step("activate", output, [source], {"slope": slope}))
    return output


def gelu(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Exact, or by tanh."""
    what = "GELU_TANH" if given["approximate"] == "tanh" else "GELU"
    return build.map(what, [build.value(given["self"])], into=build.own(node, given["self"]))


def hard(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Hardsigmoid, clip(x + 3, 0, 6) / 6, and hardswish, x times that."""
    x = build.value(given["self"])
    gate = build.map("ADD", [x, build.value(3.0)])
    for what, limit in (("MAXIMUM", 0.0), ("MINIMUM", 6.0)):
        build.map(what, [gate, build.value(limit)], into=gate)
    build.map("DIVIDE", [gate, build.value(6.0)], into=gate)
    return gate if kind_of(node).startswith("hardsigmoid") else build.map("MULTIPLY", [x, gate], into=gate)


def plain(what: str, **wanted: Any) -> Operation:
    """A function of each number that is known for one value of its parameters only."""

    def step(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
        for name, value in wanted.items():
            if given[name] != value:
                raise build.missing(node, f"{kind_of(node)} with {name}={given[name]}")
        return build.map(what, [build.value(given["self"])], into=build.own(node, given["self"]))

    return step


def cast(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Another type: all numbers are floats in C, so that only rounding and truth change them."""
    before, after = node.args[0].meta["val"].dtype, node.meta["val"].dtype  # type: ignore[union-attr]
    if after == torch.bool != before:
        return build.map("DIFFERENT", [build.value(node.args[0]), build.value(0.0)])
    whole = not after.is_floating_point
    if after != before and whole and before.is_floating_point:
        raise build.missing(node, f"a conversion from {before} to {after}")
    return build.value(node.args[0])


def clone(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """A copy."""
    return build.copied(build.value(node.args[0]))


def concatenate(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Each part copied to its place."""
    output = build.new(node)
    at = 0
    for part in given["tensors"]:
        view = build.value(part)
        if view.meta.dim() != output.meta.dim():  # torch takes an empty list of numbers for nothing
            continue
        length = view.meta.shape[given["dim"]]
        build.copy(view, View(output.buffer, output.meta.narrow(given["dim"], at, length)))
        at += length
    return output


def stack(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Each part copied to its place along a new dimension."""
    output = build.new(node)
    for place, part in enumerate(given["tensors"]):
        build.copy(build.value(part), View(output.buffer, output.meta.select(given["dim"], place)))
    return output


def pad(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Constants around a copy; negative padding cuts."""
    if given.get("mode", "constant") != "constant":
        raise build.missing(node, f"pad with mode {given['mode']}")
    source, amounts = build.value(given["self"]), list(given["pad"])
    if not given["value"] and _before_convolutions(node, amounts, source):
        build.padding[node] = amounts[2] if len(amounts) == 4 else 0, amounts[0]
        return source
    output = build.new(node)
    build.copy(build.value(given["value"] or 0.0), output)
    inner, outer = source.meta, output.meta
    for place in range(len(amounts) // 2):
        before, after = amounts[2 * place : 2 * place + 2]
        dim = inner.dim() - 1 - place
        inner = inner.narrow(dim, max(0, -before), inner.shape[dim] - max(0, -before) - max(0, -after))
        outer = outer.narrow(dim, max(0, before), outer.shape[dim] - max(0, before) - max(0, after))
    build.copy(View(source.buffer, inner), View(output.buffer, outer))
    return output


def _before_convolutions(node: fx.Node, amounts: list[int], source: View) -> bool:
    """Whether only convolutions see the zeros, which take what lies beyond the edges for zeros anyway."""
    if min(amounts) < 0 or len(amounts) > 2 * (source.meta.dim() - 2):
        return False
    return all(
        isinstance(user.target, torch._ops.OpOverload)
        and kind_of(user) in {"conv1d", "conv2d"}
        and user.args[0] is node
        and not isinstance(arguments(user)["padding"], str)
        for user in node.users
    )


OPS: dict[str, Operation] = {
    **dict.fromkeys(("add", "sub", "mul", "div", "maximum", "minimum", "__mul__", "__add__", "prelu"), binary),
    **dict.fromkeys(UNARY, unary),
    **{"rsub": reversed_subtract, "pow": power, "relu": activate, "leaky_relu": activate, "gelu": gelu},
    **{"relu6": bounded(0.0, 6.0), "hardtanh": bounded("min_val", "max_val"), "clamp": bounded("min", "max")},
    **{"clamp_min": bounded("min", None), "clamp_max": bounded(None, "max")},
    **{"hardsigmoid": hard, "hardswish": hard, "softplus": plain("SOFTPLUS", beta=1, threshold=20)},
    "elu": plain("ELU", alpha=1, scale=1, input_scale=1),
    **{
        "to": cast,
        "_to_copy": cast,
        "type_as": cast,
        "clone": clone,
        "cat": concatenate,
        "stack": stack,
        "pad": pad,
    },
    **PARTS,
    **MASKS,
    **PICKS,
}
