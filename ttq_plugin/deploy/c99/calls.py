"""Writes steps, except layers, as statements in C."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from ttq_plugin.deploy.c99.text import number
from ttq_plugin.deploy.c99.writer import Call, Writer
from ttq_plugin.deploy.program.steps import Step
from ttq_plugin.errors import InputError

MOST_STATEMENTS = 64
"""Most statements for one operation with too many dimensions for a single call."""


def _map(writer: Writer, step: Step) -> str:
    """An element-wise operation; beyond four dimensions, the smallest ones become separate statements."""
    shape = step.output.meta.shape
    views = [step.output, *step.inputs] if len(step.inputs) == 2 else [step.output, *step.inputs * 2]
    sizes, strides = merged(shape, [view.meta.expand(shape).stride() for view in views])
    outer = sorted(range(len(sizes)), key=sizes.__getitem__)[: max(0, len(sizes) - 4)]
    if math.prod(sizes[dim] for dim in outer) > MOST_STATEMENTS:
        outer = []  # which is refused below
    inner = [dim for dim in range(len(sizes)) if dim not in outer]
    loops, steps = four([sizes[dim] for dim in inner], [[each[dim] for dim in inner] for each in strides])
    statements = []
    for place in itertools.product(*(range(sizes[dim]) for dim in outer)):
        ahead = [sum(at * each[dim] for at, dim in zip(place, outer, strict=True)) for each in strides]
        operands = ", ".join(
            f"{writer.at(view, more)}, {numbers(each)}" for view, more, each in zip(views, ahead, steps, strict=True)
        )
        statements.append(f"map({step.more['what']}, {numbers(loops)}, {operands});")
    return "\n    ".join(statements)


def _pick(writer: Writer, step: Step) -> str:
    """Selects positions along a dimension."""
    [source], more = step.inputs, step.more
    dim, views = more["dim"], [source.meta, step.output.meta]
    rest = [each for each in range(source.meta.dim()) if each != dim]
    sizes, steps = four([source.meta.shape[d] for d in rest], [[view.stride(d) for d in rest] for view in views])
    first = writer.places(more["first"])
    second = "NULL" if more["second"] is None else writer.places(more["second"])
    share = "NULL"
    if more["share"] is not None:
        share = writer.constant(np.array(more["share"], dtype=np.float32), (tuple(more["share"]), "share"))
    along = ", ".join(str(view.stride(dim)) for view in views)
    operands = ", ".join(f"{writer.at(v)}, {numbers(s)}" for v, s in zip((source, step.output), steps, strict=True))
    return f"pick({len(more['first'])}, {along}, {first}, {second}, {share}, {numbers(sizes)}, {operands});"


def _reduce(writer: Writer, step: Step) -> str:
    """Sums, means and maxima."""
    [source] = step.inputs
    shape, stride, gone = source.meta.shape, source.meta.stride(), step.more["dims"]
    words = []
    for dims in ([d for d in range(len(shape)) if d not in gone], sorted(gone)):
        sizes, [steps] = four([shape[d] for d in dims], [[stride[d] for d in dims]])
        words += [numbers(sizes), numbers(steps)]
    return f"reduce({step.more['what']}, {', '.join(words)}, {writer.at(source)}, {writer.at(step.output)});"


def _pool(writer: Writer, step: Step) -> str:
    """Pooling windows."""
    [source], more = step.inputs, step.more
    name = f"pooling{len(writer.names)}"
    writer.names[step.output] = name
    plain_numbers = [*source.meta.shape[1:], *source.meta.stride()[1:]]
    pairs = [f"{{{a}, {b}}}" for a, b in (more[w] for w in ("kernel_size", "stride", "padding", "dilation", "out"))]
    flags = [int(more[word]) for word in ("adaptive", "mean", "padded")]
    fields = ", ".join(map(str, [*plain_numbers, *pairs, *flags]))
    writer.declared.append(f"static const pooling {name} = {{{fields}}};")
    return f"pool(&{name}, {writer.at(source)}, {writer.at(step.output)});"


def _embed(writer: Writer, step: Step) -> str:
    """Rows of a table."""
    [indices], table = step.inputs, step.more["table"]
    rows, width = writer.program.tensors[table].shape
    places = f"&{writer.weights(table)}, {writer.at(indices)}, {writer.at(step.output)}"
    return f"embed({indices.meta.numel()}, {rows}, {width}, {places});"


def _recur(writer: Writer, step: Step) -> str:
    """A recurrent layer in one direction."""
    [source], more = step.inputs, step.more
    name = f"recurrence{len(writer.names)}"
    writer.names[step.output] = name
    weights = [writer.weight_fields(more[word]) for word in ("input_weight", "hidden_weight")]
    weights += [writer.optional(more[word]) for word in ("input_bias", "hidden_bias")]
    _, length, width = source.meta.shape
    _, x_step, x_feature_step = source.meta.stride()
    sizes = [length, width, step.output.meta.shape[-1], x_step, x_feature_step, step.output.meta.stride(1)]
    fields = ", ".join(map(str, [*weights, *sizes, more["gates"], more["backward"]]))
    writer.declared.append(f"static const recurrence {name} = {{{fields}}};")
    return f"recur(&{name}, {writer.at(source)}, {writer.at(step.output)});"


def _product(writer: Writer, step: Step) -> str:
    """Pairs of matrices."""
    a, b = (view.meta for view in step.inputs)
    pairs = a.shape[:-2].numel()
    lead = [meta.stride(-3) if pairs > 1 else 0 for meta in (a, b)]
    steps = [numbers([n, *meta.stride()[-2:]], 3) for n, meta in zip(lead, (a, b), strict=True)]
    left, right = (writer.at(view) for view in step.inputs)
    sizes = f"{pairs}, {a.shape[-2]}, {a.shape[-1]}, {b.shape[-1]}"
    return f"product({sizes}, {left}, {steps[0]}, {right}, {steps[1]}, {writer.at(step.output)});"


def _activate(writer: Writer, step: Step) -> str:
    """ReLU and LeakyReLU."""
    places = f"{writer.at(step.inputs[0])}, {writer.at(step.output)}"
    return f"activate({step.output.meta.numel()}, {number(step.more['slope'])}, {places});"


def _normalise(writer: Writer, step: Step) -> str:
    """LayerNorm."""
    more = step.more
    rows = step.output.meta.numel() // more["width"]
    constants = f"{writer.optional(more['weight'])}, {writer.optional(more['bias'])}"
    places = f"{writer.at(step.inputs[0])}, {writer.at(step.output)}"
    return f"normalise({rows}, {more['width']}, {number(more['eps'])}, {constants}, {places});"


def _attend(writer: Writer, step: Step) -> str:
    """Attention."""
    query, key, value = (view.meta for view in step.inputs[:3])
    name = f"attention{len(writer.names)}"
    writer.names[step.output] = name
    sizes = [query.shape[1], query.shape[2], key.shape[2], query.shape[3], value.shape[3]]
    sizes.append(query.shape[1] // key.shape[1])
    mask = step.inputs[3] if len(step.inputs) > 3 else None
    strides = [tensor.stride()[1:] for tensor in (query, key, value)]
    strides.append(mask.meta.stride()[1:] if mask else (0, 0, 0))
    steps = ", ".join(f"{{{', '.join(map(str, each))}}}" for each in strides)
    fields = f"{', '.join(map(str, sizes))}, {steps}, {number(step.more['scale'])}, {int(step.more['causal'])}"
    writer.declared.append(f"static const attention {name} = {{{fields}}};")
    places = [*(writer.at(view) for view in step.inputs[:3]), writer.at(mask) if mask else "NULL"]
    return f"attend(&{name}, {', '.join(places)}, {writer.at(step.output)});"


def merged(shape: Any, strides: list[Any]) -> tuple[list[int], list[list[int]]]:
    """Merge neighbouring dimensions where possible, so that sizes and strides have as few dimensions as possible.

    Args:
        shape: Shape of a tensor.
        strides: Strides of some tensors of this shape.

    Returns:
        Sizes, and the strides of each.
    """
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for dim, size in enumerate(shape):
        if size == 1:
            continue
        here = [stride[dim] for stride in strides]
        if sizes and all(step[-1] == at * size for step, at in zip(steps, here, strict=True)):
            sizes[-1] *= size
            for step, at in zip(steps, here, strict=True):
                step[-1] = at
        else:
            sizes.append(size)
            for step, at in zip(steps, here, strict=True):
                step.append(at)
    return sizes, steps


def four(shape: Any, strides: list[Any]) -> tuple[list[int], list[list[int]]]:
    """Like ``merged``, but with exactly four dimensions.

    Args:
        shape: Shape of a tensor.
        strides: Strides of some tensors of this shape.

    Returns:
        Sizes, and the strides of each.

    Raises:
        InputError: If four do not suffice.
    """
    sizes, steps = merged(shape, strides)
    if len(sizes) > 4:
        raise InputError(
            f"operations over more than four dimensions have no C code, got one of {tuple(shape)}; export it to ONNX "
            "instead."
        )
    lead = 4 - len(sizes)
    return [1] * lead + sizes, [[0] * lead + step for step in steps]


def numbers(values: list[int], count: int = 4) -> str:
    """A constant array in C, without a name."""
    return f"(const dim[{count}]){{{', '.join(map(str, values))}}}"


CALLS: dict[str, Call] = {
    "map": _map,
    "reduce": _reduce,
    "pool": _pool,
    "embed": _embed,
    "recur": _recur,
    "product": _product,
    "activate": _activate,
    "normalise": _normalise,
    "attend": _attend,
    "pick": _pick,
}
