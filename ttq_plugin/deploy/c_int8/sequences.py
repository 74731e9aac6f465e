"""Structs of what works on sequences: products of matrices, softmax, norms, embeddings and recurrent layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ttq_plugin.deploy.c99.calls import four
from ttq_plugin.deploy.c99.codes import base3
from ttq_plugin.deploy.c_int8.layout import EMBEDDING, MATRICES, NORM, RECURRENCE, SHARES, UNITS, Data
from ttq_plugin.deploy.integer.operators.recurrent import CURVE
from ttq_plugin.deploy.integer.records import IntegerOp
from ttq_plugin.errors import InputError

SWITCHES = {"product": "MATRICES", "softmax": "SOFTMAX", "normalise": "NORM", "embed": "EMBED", "recur": "RECUR"}
"""Kind of an operation -> the switch of its kernel."""


class Constants(Protocol):
    """What collects a model's constants."""

    data: Data
    kinds: dict[str, str]
    units: set[str]

    def put(self, kind: str, values: list[int], cast: str = "") -> str:
        """The address of numbers."""

    def terms(self, bias: Tensor, shift: int) -> dict[str, Any]:
        """Fields of biases."""

    def layer_at(self, op: IntegerOp) -> str:
        """The address of a layer's struct."""


def _ends(op: IntegerOp) -> dict[str, Any]:
    return {"ends": [op.zero, op.low, op.high], "shift": op.shift}


def _pairs(shape: Any, strides: list[Any], most: int) -> tuple[list[int], list[list[int]]]:
    """Leading dimensions as ``most`` of them."""
    sizes, steps = four(shape, strides)
    if any(size > 1 for size in sizes[: 4 - most]):
        raise InputError(
            f"attention over more than {most} leading dimensions that do not lie in order has no integer form, got "
            f"{tuple(shape)}; call contiguous() on them, or export it to c."
        )
    return sizes[4 - most :], [step[4 - most :] for step in steps]


def _product(made: Constants, op: IntegerOp) -> tuple[str, str]:
    a, b = (view.meta for view in op.inputs)
    lead = a.shape[:-2]
    pairs, [a_lead, b_lead] = _pairs(lead, [meta.expand(*lead, -1, -1).stride()[:-2] for meta in (a, b)], 2)
    values: dict[str, Any] = {"size": [*pairs, *a.shape[-2:], b.shape[-1]], **_ends(op)}
    values |= {"a": [*a_lead, *a.stride()[-2:]], "b": [*b_lead, *b.stride()[-2:]]}
    values |= {"factors": made.put("words", list(op.factors)), "a_zero": op.zeros[0], "b_zero": op.zeros[1]}
    return "multiply_matrices", f"&data.matrices[{made.data.add(MATRICES, values, op.kind)}]"


def _softmax(made: Constants, op: IntegerOp) -> tuple[str, str]:
    views = [view.meta.movedim(op.more["dim"], -1) for view in (op.inputs[0], op.inputs[-1], op.output)]
    shape = views[0].shape
    # Which row it is decides what a causal mask hides: the rows stay a dimension of their own.
    apart = 2 if op.more["causal"] else 1
    sizes, lead = _pairs(shape[:-apart], [view.stride()[:-apart] for view in views], 4 - apart)
    steps = [[*one, *view.stride()[len(shape) - apart :]] for one, view in zip(lead, views, strict=True)]
    powers = op.more["powers"].tolist()
    values: dict[str, Any] = {"size": [*sizes, *shape[len(shape) - apart :]], **_ends(op)}
    values |= dict(zip(("x", "hidden", "y"), steps, strict=True))
    values |= {"factors": made.put("words", list(op.factors)), "powers": made.put("halves", powers)}
    values |= {"powers_count": len(powers), "causal": int(op.more["causal"]), "masked": int(len(op.inputs) > 1)}
    return "soften", f"&data.shares[{made.data.add(SHARES, values, op.kind)}]"


def _normalise(made: Constants, op: IntegerOp) -> tuple[str, str]:
    more = op.more
    epsilon, shift = more["epsilon"]
    values = {"rows": op.output.meta.numel() // more["width"], "width": more["width"], **_ends(op)}
    values |= {"factors": made.put("halves", list(op.factors)), "factor_step": int(len(op.factors) > 1)}
    values |= {"epsilon": made.put("words", [epsilon]), "epsilon_shift": shift, "centred": int(more["centred"])}
    values |= made.terms(more["terms"], op.shift - more["terms_bits"])
    values["x_zero"] = op.zeros[0]
    return "normalise", f"&data.norms[{made.data.add(NORM, values, str(more['weight'] or op.kind))}]"


def _embed(made: Constants, op: IntegerOp) -> tuple[str, str]:
    more, name = op.more, op.more["table"]
    rows, width = more["entries"].shape
    if more["values"] is None:
        table, ternary = (more["entries"].reshape(-1).numpy().astype(np.int64) % 256).tolist(), 0
    else:
        table, ternary = [byte for row in more["codes"].numpy() for byte in base3(row).tolist()], 1
    values: dict[str, Any] = {"table": made.put("bytes", table), "ternary": ternary, "bytes": more["bytes"]}
    values |= {"count": op.output.meta.numel() // width, "rows": rows, "width": width}
    values["row_bytes"] = -(-width // 5) if ternary else width
    values["values"] = list(more["values"] or (0, 0, 0))
    return "embed", f"&data.embeddings[{made.data.add(EMBEDDING, values, name)}]"


def _recur(made: Constants, op: IntegerOp) -> tuple[str, str]:
    more, source, output = op.more, op.inputs[0].meta, op.output.meta
    unit = {4: "LSTM", 3: "GRU", 1: "RNN"}[more["gates"]]
    made.units.add(unit)
    values: dict[str, Any] = {"unit": UNITS[unit], "parts": [made.layer_at(part) for part in more["parts"]]}
    values |= {"curve": made.put("halves", CURVE.tolist()), "factors": made.put("words", list(op.factors))}
    values |= {"length": source.shape[1], "hidden": output.shape[-1]}
    values |= {"x_step": source.stride(1), "y_step": output.stride(1), **_ends(op)}
    values |= {"gates": more["gates"], "backward": int(more["backward"]), "cell_bits": more["cell_bits"]}
    return "recur", f"&data.recurrences[{made.data.add(RECURRENCE, values, more['input_weight'])}]"


SEQUENCES: dict[str, Callable[[Constants, IntegerOp], tuple[str, str]]] = {
    **{"product": _product, "softmax": _softmax, "normalise": _normalise, "embed": _embed, "recur": _recur},
}
"""By the kind of an operation, a function that adds its struct and returns the kernel and the struct's address."""
