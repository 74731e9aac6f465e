"""An integer program's constants and steps as the structs of the C code."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttq_plugin.deploy.c99.calls import four
from ttq_plugin.deploy.c_int8.codes import KINDS, coded
from ttq_plugin.deploy.c_int8.layout import ELEMENTS, LAYER, LOOPS, POOLING, REDUCTION, STEP, UNITS, Data, aligned
from ttq_plugin.deploy.c_int8.placement import Placement, place
from ttq_plugin.deploy.c_int8.sequences import SEQUENCES, SWITCHES
from ttq_plugin.deploy.integer.lower import most_counted
from ttq_plugin.deploy.integer.records import IntegerOp, IntegerProgram
from ttq_plugin.deploy.integer.windows import spans
from ttq_plugin.deploy.program.geometry import pooled
from ttq_plugin.deploy.program.steps import View
from ttq_plugin.errors import InputError


class Writer:
    """Constants, steps and static memory of a program.

    Args:
        program: The operations.
        fast: Whether codes may take more bytes to be read faster.

    Attributes:
        data: The constants.
        placement: Where the buffers lie.
        taps: Weights that are not zero of the ternary channel with the most.
        edges: Whether a ternary layer looks beyond the edges of its input.
        states: Units of the recurrent layer with the most.
        kinds: How each layer's weight is stored, by the weight's name.
        units: Switches of the recurrent units there are.
    """

    def __init__(self, program: IntegerProgram, fast: bool = False) -> None:
        self.program, self.fast = program, fast
        self.data = Data()
        self.placement: Placement = place(program)
        self.taps, self.edges = self._working_memory()
        self.states = max((op.more["parts"][1].more["channels"] for op in program.ops if op.kind == "recur"), default=0)
        self.kinds: dict[str, str] = {}
        self.units: set[str] = set()
        for op in program.ops:
            self._step(op)
        self.data.largest = max(self.data.largest, self.taps, self.states, self.placement.size)

    @property
    def used(self) -> dict[str, bool]:
        """The switches of the C code."""
        kinds = {op.kind for op in self.program.ops}
        forms, run = set(self.kinds.values()), {self.kinds[op.more["weight"]] for op in self.program.ops if op.weights}
        means = any(op.kind == "mean_pool" for op in self.program.ops)
        found = {"LAYER": bool(kinds & {"layer", "recur"}), "POSITIONS": "layer" in kinds, "EDGES": self.edges}
        for prefix, stored in (("", forms), ("RUN_", run)):
            found |= {f"{prefix}TERNARY": bool(stored & set(KINDS)), f"{prefix}DENSE": "bytes" in stored}
        found |= {name.upper(): name in forms for name in KINDS}
        found |= {name: name.lower() in kinds for name in ELEMENTS}
        found |= {"EACH": any(found[name] for name in ELEMENTS), "MEAN_POOL": means}
        found |= {"REDUCE": bool(kinds & {"mean", "largest"}), "POOL": bool(kinds & {"mean_pool", "largest_pool"})}
        found |= {switch: kind in kinds for kind, switch in SWITCHES.items()}
        found |= {name: name in self.units for name in UNITS}
        found |= {"QUOTIENT": found["SOFTMAX"] or found["NORM"], "TERM": found["LAYER"] or found["NORM"]}
        found["OPENED"] = found["LSTM"] or found["GRU"]
        products = ("LAYER", "MULTIPLY", "REDUCE", "MEAN_POOL", "MATRICES", "SOFTMAX", "NORM")
        found["PRODUCT"] = any(found[name] for name in products)
        found["FINISH"] = found["PRODUCT"] or found["ADD"]
        return found

    @property
    def static_bytes(self) -> int:
        """Bytes of memory: arena and working memory."""
        working = (self.taps + 2) * self.data.dim + 2 * self.taps * self.edges if self.taps else 0
        # Linkers fill memory up to whole words.
        return aligned(working + 2 * self.states + self.placement.size, 4)

    def _working_memory(self) -> tuple[int, bool]:
        """Weights that are not zero of the ternary channel with the most, and whether a ternary layer is padded."""
        taps, edges = 0, False
        for part in (part for op in self.program.ops for part in op.more.get("parts", [op])):
            if part.weights is not None and part.weights.negative is not None:
                rows = part.weights.codes.flatten(1)
                taps = max(taps, 1, int(torch.count_nonzero(rows, dim=1).max()))
                edges |= self._looks_beyond(part.more)
        return taps, edges

    # Operands.

    def put(self, kind: str, values: list[int], cast: str = "") -> str:
        """The address of numbers."""
        return f"{cast}(data.{kind} + {self.data.put(kind, values)})" if values else "0"

    def _at(self, view: View) -> tuple[int, str]:
        """The memory in which a view begins, and its offset there."""
        buffer, offset = view.buffer, int(view.meta.storage_offset())
        if buffer.constant is not None:
            values = self.program.constants[buffer.constant].to(torch.int64) % 256
            return 0, f"(const int8_t *)(data.bytes + {self.data.put('bytes', values.tolist()) + offset})"
        if buffer is self.program.input:
            return 1, f"(const int8_t *){offset}"
        if buffer is self.program.output.buffer:
            return 2, f"(int8_t *){offset}"
        return 0, f"work.arena + {self.placement.offsets[buffer] + offset}"

    def _step(self, op: IntegerOp) -> None:
        if op.kind in SEQUENCES:
            kernel, more = SEQUENCES[op.kind](self, op)
        else:
            kernel, more = getattr(self, f"_{op.kind}", self._element)(op)
        places = [self._at(view) for view in (op.inputs[0], op.inputs[-1], op.output)]
        values = dict(zip(("a", "b", "y"), (address for _, address in places), strict=True))
        packed = sum(memory << (2 * shift) for shift, (memory, _) in enumerate(places))
        packed += 64 * (op is self.program.ops[-1])
        self.data.add(STEP, {"run": kernel, "more": more, **values, "places": packed}, op.kind)

    # One method a kind; others are operations on single numbers.

    def _layer(self, op: IntegerOp) -> tuple[str, str]:
        assert op.weights is not None
        return ("run_dense" if op.weights.negative is None else "run_ternary"), self.layer_at(op)

    def layer_at(self, op: IntegerOp) -> str:
        """The address of a layer's struct, which is added."""
        more, weights = op.more, op.weights
        assert weights is not None
        name = more["weight"]
        values = self._geometry(op) | {"positive": self.put("words", weights.positive.tolist())}
        values |= dict.fromkeys(("negative", "rice", "kind", "weights", "most_taps", "taps", "edges"), 0)
        values["factor_step"] = int(len(weights.positive) > 1)
        flat = weights.codes.reshape(-1).numpy()
        padded = self._looks_beyond(more)
        if weights.negative is not None:
            found = coded(flat, self.fast)
            values |= {"negative": self.put("words", weights.negative.tolist())}
            values |= {"taps": "work.taps", "most_taps": self.taps}
            values |= {"kind": KINDS.index(found.kind), "rice": found.rice, "weights": int(np.count_nonzero(flat))}
            codes, self.kinds[name] = found.values.tolist(), found.kind
            values["edges"] = "work.edges" if self.edges else 0
            if padded and max(more["kernel"]) > 256:
                raise InputError(f"integer C code needs padded kernels of at most 256 positions, got {name}.")
        else:
            codes, self.kinds[name] = (flat.astype(np.int64) % 256).tolist(), "bytes"
        values |= {"codes": self.put("bytes", codes), "padded": int(padded), **self._bias(op)}
        values |= {"table": self._table_at(op.table)}
        values |= {"x_zero": op.zeros[0], "ends": [op.zero, op.low, op.high], "shift": op.shift}
        return f"&data.layers[{self.data.add(LAYER, values, name)}]"

    def _bias(self, op: IntegerOp) -> dict[str, Any]:
        weights = op.weights
        assert weights is not None
        return self.terms(weights.bias, op.shift - weights.bias_bits)

    def terms(self, bias: Tensor, shift: int) -> dict[str, Any]:
        """Fields of biases, which are shifted to the left before they are added to a total."""
        if not bias.numel():
            return {"bias": 0, "bias_kind": 0, "bias_shift": 0}
        numbers = bias.tolist()
        kind = 1 if max(map(abs, numbers)) < 1 << 15 else 2
        at = self.put("halves" if kind == 1 else "words", numbers)
        return {"bias": at, "bias_kind": kind, "bias_shift": shift}

    @staticmethod
    def _geometry(op: IntegerOp) -> dict[str, Any]:
        more = op.more
        assert op.weights is not None
        channels = len(op.weights.codes)
        pool = more["pool"] or {"size": (1, 1), "stride": (1, 1)}
        after = pooled(more["out"], pool)
        steps, rows, columns = more["steps"], more["rows"], more["columns"]
        kernel, inner = more["kernel"], more["channels"]
        if kernel == (1, 1) and columns == 1 and more["padding"] == (0, 0) and more["groups"] == 1:
            # A linear layer's inputs become a kernel's columns, which are counted faster than channels are.
            kernel, columns, steps, inner = (1, inner), inner, (0, steps[1], steps[0]), 1
        values = {"groups": more["groups"], "channels": inner, "rows": rows, "columns": columns}
        values |= dict(zip(("channel_step", "row_step", "column_step"), steps, strict=True))
        values |= dict(zip(("kernel_rows", "kernel_columns"), kernel, strict=True))
        for word in ("stride", "padding", "dilation"):
            values |= dict(zip((f"row_{word}", f"column_{word}"), more[word], strict=True))
        values |= dict(zip(("pool_rows", "pool_columns"), pool["size"], strict=True))
        values |= dict(zip(("pool_row_stride", "pool_column_stride"), pool["stride"], strict=True))
        values |= {"out_channels": channels // more["groups"], "pooled_rows": after[0], "pooled_columns": after[1]}
        values["out_channel_step"] = 1 if more["transposed_output"] else after[0] * after[1]
        values["out_position_step"] = channels if more["transposed_output"] else 1
        return values

    @staticmethod
    def _looks_beyond(more: dict[str, Any]) -> bool:
        """Whether some window lies partly outside the input."""
        sizes = zip(more["out"], more["stride"], more["dilation"], more["kernel"], more["padding"], strict=True)
        last = [(n - 1) * s + d * (k - 1) - p for n, s, d, k, p in sizes]
        return any(more["padding"]) or last[0] >= more["rows"] or last[1] >= more["columns"]

    def _table_at(self, table: Tensor | None) -> str:
        if table is None:
            return "0"
        return self.put("bytes", (table.to(torch.int64) % 256).tolist(), "(const int8_t *)")

    def _element(self, op: IntegerOp) -> tuple[str, str]:
        shape = op.output.meta.shape
        views = [op.output, op.inputs[0], op.inputs[-1]]
        sizes, [y, a, b] = four(shape, [view.meta.expand(shape).stride() for view in views])
        values: dict[str, Any] = {"what": ELEMENTS[op.kind.upper()], "size": sizes, "y": y, "a": a, "b": b}
        values |= {"factors": self.put("words", list(op.factors))}
        values |= {"table": self._table_at(op.table), "shift": op.shift}
        values |= {"a_zero": op.zeros[0], "b_zero": op.zeros[-1], "ends": [op.zero, op.low, op.high]}
        return "each", f"&data.loops[{self.data.add(LOOPS, values, op.kind)}]"

    def _mean(self, op: IntegerOp) -> tuple[str, str]:
        [source] = op.inputs
        shape, stride, gone = source.meta.shape, source.meta.stride(), op.more["dims"]
        kept = [dim for dim in range(len(shape)) if dim not in gone]
        size, [step] = four([shape[d] for d in kept], [[stride[d] for d in kept]])
        away, [away_step] = four([shape[d] for d in sorted(gone)], [[stride[d] for d in sorted(gone)]])
        values: dict[str, Any] = {"size": size, "step": step, "gone": away, "gone_step": away_step}
        values |= {"factors": self.put("words", list(op.factors))}
        values |= {"mean": int(op.kind == "mean"), "shift": op.shift, "x_zero": op.zeros[0]}
        at = self.data.add(REDUCTION, values | {"ends": [op.zero, op.low, op.high]}, op.kind)
        return "reduce", f"&data.reductions[{at}]"

    _largest = _mean

    def _mean_pool(self, op: IntegerOp) -> tuple[str, str]:
        [source], more = op.inputs, op.more
        values: dict[str, Any] = dict(zip(("channels", "rows", "columns"), source.meta.shape[1:], strict=True))
        values |= dict(zip(("channel_step", "row_step", "column_step"), source.meta.stride()[1:], strict=True))
        values |= {word: list(more[word]) for word in ("stride", "padding", "dilation", "out")}
        values["window"] = list(more["kernel_size"])
        pairs = [span[:2] for dim in (0, 1) for span in spans(more, dim, source.meta.shape[-2 + dim])]
        if more["adaptive"]:
            values |= dict.fromkeys(("window", "stride", "padding"), [0, 0])
        values["spans"] = self.put("halves", [n for pair in pairs for n in pair]) if more["adaptive"] else 0
        mean = op.kind == "mean_pool"
        assert not mean or len(op.factors) == most_counted(op)
        values |= {"factors": self.put("words", list(op.factors)), "mean": int(mean)}
        values |= {"padded": int(bool(more["padded"]) and not more["adaptive"]), "adaptive": int(more["adaptive"])}
        values |= {"shift": op.shift, "x_zero": op.zeros[0], "ends": [op.zero, op.low, op.high]}
        return "pool", f"&data.poolings[{self.data.add(POOLING, values, op.kind)}]"

    _largest_pool = _mean_pool
