"""Writes a program's declarations and statements in C, and places its buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.deploy.c99.codes import Stored, stored
from ttq_plugin.deploy.c99.text import C_CODE, array, number, source
from ttq_plugin.deploy.program.folding import folded_step
from ttq_plugin.deploy.program.geometry import pooled
from ttq_plugin.deploy.program.steps import Buffer, Program, Step, View
from ttq_plugin.support.names import in_comment

SMALL = 1 << 16


Call = Callable[["Writer", Step], str]
"""Declares what a step of its kind needs, and writes the statement."""


class Writer:
    """Declarations and statements of a program; `calls` has the kinds of steps but the layer."""

    def __init__(self, program: Program, dense: bool, calls: Mapping[str, Call]) -> None:
        self.program, self.dense, self.calls = program, dense, calls
        self.declared: list[str] = []
        self.names: dict[Any, str] = {}
        self.packed: dict[str, Stored] = {}
        self.constant_bytes = 0
        self.offsets, self.arena = _arena(program)
        layers = [step for step in program.steps if step.kind == "layer"]
        self.tables = {step.more["table"] for step in program.steps if step.kind == "embed"}
        self.plane = max((int(np.prod(step.more["out"])) for step in layers), default=0)
        self.keys = max((s.inputs[1].meta.shape[2] for s in program.steps if s.kind == "attend"), default=0)
        self.hidden = max((s.output.meta.shape[-1] for s in program.steps if s.kind == "recur"), default=0)
        self.largest = max([buffer.size for step in program.steps for buffer in _buffers(step)] or [1])

    @property
    def kinds(self) -> dict[str, str]:
        """Weight -> form."""
        return {name: packed.kind for name, packed in self.packed.items()}

    @property
    def coded(self) -> bool:
        """Whether some weight is codes -1, 0, 1."""
        return bool({"gaps", "trits"} & set(self.kinds.values()))

    @property
    def static_bytes(self) -> int:
        """Number of bytes of arena, planes and scores."""
        return 4 * (self.arena + self.plane * (2 if self.coded else 1) + self.keys + 10 * self.hidden)

    def body(self) -> str:
        """The statements of the function, in order; declarations are made along the way."""
        return "\n".join(f"    {self._call(step)}" for step in self.program.steps)

    def text(self, name: str, body: str) -> str:
        """The whole .c file around the statements."""
        kinds, forms = {step.kind for step in self.program.steps}, set(self.kinds.values())
        switches = {f"USE_{form.upper()}": form in forms for form in ("gaps", "trits", "bytes", "floats")}
        for kind in ("layer", *self.calls):
            switches[f"USE_{kind.upper()}"] = kind in kinds
        sizes = {"PLANE": self.plane, "KEYS": self.keys, "HIDDEN": self.hidden, "ARENA": self.arena}
        done = sorted({step.more["what"] for step in self.program.steps if step.kind == "map"} - {"COPY"})
        operations = {what: C_CODE[what] for what in done}
        parts = {"constants": "\n\n".join(self.declared), "body": body}
        return source(name, switches, sizes, operations, self.largest >= SMALL, parts)

    def _call(self, step: Step) -> str:
        return self._layer(step) if step.kind == "layer" else self.calls[step.kind](self, step)

    # Operands.

    def constant(self, values: NDArray[np.generic], key: Any, prefix: str = "k") -> str:
        """The name of an array, declared once for each key."""
        if key not in self.names:
            self.names[key] = f"{prefix}{len(self.names)}"
            self.declared.append(array(self.names[key], values))
            self.constant_bytes += values.nbytes
        return self.names[key]

    def tensor(self, name: str) -> str:
        """The name of a tensor's array."""
        return self.constant(self.program.tensors[name].float().numpy().reshape(-1), name)

    def weight_fields(self, name: str) -> str:
        """A weight as a value of the C type ``weights``; its arrays are declared once, in their smallest form."""
        if name not in self.packed:
            weight = self.program.tensors[name].float()
            self.packed[name] = stored(weight, dense=self.dense, random=name in self.tables)
        packed = self.packed[name]
        one = packed.kind == "floats"
        fields = [
            self.constant(packed.values, (name, "codes"), "w"),
            self.constant(packed.positive, "one" if one else (name, "positive")),
            "NULL" if packed.negative is None else self.constant(packed.negative, (name, "negative")),
            packed.kind.upper(),
            str(packed.rice),
            str(int(packed.positive.size > 1)),
        ]
        return f"{{{', '.join(fields)}}}"

    def weights(self, name: str) -> str:
        """The name of a weight of the C type ``weights``."""
        key = (name, "weights")
        if key not in self.names:
            fields = self.weight_fields(name)
            self.names[key] = f"weights{len(self.names)}"
            self.declared.append(f"/* {in_comment(name)} */\nstatic const weights {self.names[key]} = {fields};")
        return self.names[key]

    def optional(self, name: str | None) -> str:
        """The name of a tensor's array, or NULL."""
        return self.tensor(name) if name else "NULL"

    def places(self, values: list[int]) -> str:
        """The name of an array of places along a dimension."""
        key = ("places", tuple(values))
        if key not in self.names:
            self.names[key] = f"places{len(self.names)}"
            words = ", ".join(map(str, values))
            self.declared.append(f"static const dim {self.names[key]}[{len(values)}] = {{{words}}};")
            self.constant_bytes += len(values) * (4 if self.largest >= SMALL else 2)
        return self.names[key]

    def at(self, view: View, ahead: int = 0) -> str:
        """The address of the view's first value, or of one at an offset in floats."""
        buffer = view.buffer
        if buffer.constant:
            base, offset = self.tensor(buffer.constant), 0
        elif buffer is self.program.input or buffer is self.program.output.buffer:
            base, offset = "input" if buffer is self.program.input else "output", 0
        else:
            base, offset = "arena", self.offsets[buffer]
        offset += int(view.meta.storage_offset()) + ahead
        return f"{base} + {offset}" if offset else base

    # Statements, one function a kind of step.

    def _layer(self, step: Step) -> str:
        more = step.more
        weight = more["weight"]
        name = f"layer{len(self.names)}"
        self.names[step.output] = name
        fields = self._fields(more)
        lines = "".join(f"    .{key} = {value},\n" for key, value in fields.items())
        self.declared.append(f"/* {in_comment(weight)} */\nstatic const layer {name} = {{\n{lines}}};")
        return f"run_layer(&{name}, {self.at(step.inputs[0])}, {self.at(step.output)});"

    def _fields(self, more: dict[str, Any]) -> dict[str, Any]:
        weight = more["weight"]
        channels = len(self.program.tensors[weight])
        gain, shift = self._affine(more)
        pool = more["pool"] or {"size": (1, 1), "stride": (1, 1)}
        out = more["out"]
        after = pooled(out, pool)
        fields: dict[str, Any] = {
            "weight": self.weight_fields(weight),
            "gain": "NULL" if gain is None else self.constant(gain, (id(more), "gain")),
            "shift": "NULL" if shift is None else self.constant(shift, (id(more), "shift")),
            "slope": number(more["slope"]),
            "groups": more["groups"],
            "channels": more["channels"],
            "rows": more["rows"],
            "columns": more["columns"],
        }
        fields |= dict(zip(("channel_step", "row_step", "column_step"), more["steps"], strict=True))
        fields |= dict(zip(("kernel_rows", "kernel_columns"), more["kernel"], strict=True))
        for word in ("stride", "padding", "dilation"):
            fields |= dict(zip((f"row_{word}", f"column_{word}"), more[word], strict=True))
        fields |= {"out_channels": channels, "out_rows": out[0], "out_columns": out[1]}
        fields |= dict(zip(("pool_rows", "pool_columns"), pool["size"], strict=True))
        fields |= dict(zip(("pool_row_stride", "pool_column_stride"), pool["stride"], strict=True))
        fields |= {"pooled_rows": after[0], "pooled_columns": after[1]}
        rows = more["transposed_output"]
        fields["out_channel_step"] = 1 if rows else after[0] * after[1]
        fields["out_position_step"] = channels if rows else 1
        self.largest = max([self.largest, *(value for value in fields.values() if isinstance(value, int))])
        return fields

    def _affine(self, more: dict[str, Any]) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Factor and term of each output channel, where it has some."""
        if not more["norm"] and not more["bias"]:
            return None, None
        gain, shift = folded_step(self.program.tensors, more, len(self.program.tensors[more["weight"]]))
        return gain.float().numpy() if more["norm"] else None, shift.float().numpy()


def _buffers(step: Step) -> list[Buffer]:
    return [view.buffer for view in (step.output, *step.inputs)]


def _arena(program: Program) -> tuple[dict[Buffer, int], int]:
    """The offset of each buffer in floats, and the total size; buffers in use at the same time do not overlap."""
    spans: dict[Buffer, tuple[int, int]] = {}
    for index, step in enumerate(program.steps):
        for buffer in _buffers(step):
            if not buffer.constant and buffer is not program.input and buffer is not program.output.buffer:
                spans[buffer] = (spans.get(buffer, (index, index))[0], index)
    offsets: dict[Buffer, int] = {}
    for buffer in sorted(spans, key=lambda buffer: -buffer.size):
        first, last = spans[buffer]
        taken = sorted(
            (offsets[other], offsets[other] + other.size)
            for other in offsets
            if spans[other][0] <= last and first <= spans[other][1]
        )
        at = 0
        for start, end in taken:
            if start - at >= buffer.size:
                break
            at = max(at, end)
        offsets[buffer] = at
    return offsets, max((at + buffer.size for buffer, at in offsets.items()), default=0)
