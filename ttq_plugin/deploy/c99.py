"""A model as self-contained C99: packed weights as constants, static buffers, no malloc, no library but libm."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ttq_plugin.deploy.c99_codes import Packed, pack
from ttq_plugin.deploy.c99_program import trace
from ttq_plugin.deploy.c99_steps import Buffer, Program, Step, View
from ttq_plugin.deploy.c99_text import array, header, number, plain, source
from ttq_plugin.errors import InputError
from ttq_plugin.files import write_text

SMALL = 1 << 16
KEYWORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while".split()
)


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        source: the .c file.
        header: the .h file.
        constant_bytes: of weights, scales and other constants: flash, beside the code.
        static_bytes: of all buffers: memory, beside the stack.
        kinds: how each layer's weight is stored, by the weight's name.
    """

    source: Path
    header: Path
    constant_bytes: int
    static_bytes: int
    kinds: dict[str, str]


def export_c(
    model: nn.Module,
    example_input: Tensor,
    folder: Path,
    *,
    name: str = "model",
    about: str = "",
    dense: bool = False,
) -> Written:
    """Write ``NAME.c`` and ``NAME.h``, which compute what the module computes in evaluation mode, one sample a call.

    Args:
        model: any module of one tensor whose operations have C code (those of the built-in tasks have).
        example_input: (batch, ...); the first sample's shape is taken.
        folder: where to; made if needed.
        name: of the files, and what the names in the header begin with.
        about: one line for the header's first comment.
        dense: float weights throughout, to compare with.

    Returns:
        The files and what they will take.

    Raises:
        InputError: if the name is no C identifier, the module cannot be exported, a weight is not finite, or the
            folder cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name in KEYWORDS:
        raise InputError(f"the name of C files must be a C identifier, got {name!r}.")
    program = trace(model, example_input)
    bad = [key for key, value in program.tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise InputError(f"C code needs finite numbers, got others in {', '.join(bad)}; train the model again.")
    writer = _Writer(program, dense)
    body = writer.body()
    code, declarations = folder / f"{name}.c", folder / f"{name}.h"
    shapes = tuple(example_input.shape[1:]), tuple(program.output.meta.shape[1:])
    write_text(declarations, header(name, about, shapes))
    write_text(code, writer.text(name, body))
    return Written(code, declarations, writer.constant_bytes, writer.static_bytes, writer.kinds)


class _Writer:
    """Declarations and statements of a program."""

    def __init__(self, program: Program, dense: bool) -> None:
        self.program, self.dense = program, dense
        self.declared: list[str] = []
        self.names: dict[Any, str] = {}
        self.packed: dict[str, Packed] = {}
        self.constant_bytes = 0
        self.offsets, self.arena = _arena(program)
        layers = [step for step in program.steps if step.kind == "layer"]
        self.plane = max((int(np.prod(step.more["out"])) for step in layers), default=0)
        self.keys = max((s.inputs[1].meta.shape[2] for s in program.steps if s.kind == "attend"), default=0)
        self.largest = max([buffer.size for step in program.steps for buffer in _buffers(step)] or [1])

    @property
    def kinds(self) -> dict[str, str]:
        """Weight -> form."""
        return {name: packed.kind for name, packed in self.packed.items()}

    @property
    def coded(self) -> bool:
        """Whether some layer adds by signs."""
        return bool({"gaps", "trits"} & set(self.kinds.values()))

    @property
    def static_bytes(self) -> int:
        """Of arena, planes and scores."""
        return 4 * (self.arena + self.plane * (2 if self.coded else 1) + self.keys)

    def body(self) -> str:
        """The statements of the function, in order; declarations are made along the way."""
        return "\n".join(f"    {getattr(self, f'_{step.kind}')(step)}" for step in self.program.steps)

    def text(self, name: str, body: str) -> str:
        """The whole .c file around the statements."""
        kinds, forms = {step.kind for step in self.program.steps}, set(self.kinds.values())
        switches = {f"USE_{form.upper()}": form in forms for form in ("gaps", "trits", "bytes", "floats")}
        for kind in ("layer", "map", "activate", "normalise", "attend"):
            switches[f"USE_{kind.upper()}"] = kind in kinds
        sizes = {"PLANE": self.plane, "KEYS": self.keys, "ARENA": self.arena}
        parts = {"constants": "\n\n".join(self.declared), "body": body}
        return source(name, switches, sizes, self.largest >= SMALL, parts)

    # Operands.

    def _constant(self, values: NDArray[np.generic], key: Any, prefix: str = "k") -> str:
        """The name of an array, declared once for each key."""
        if key not in self.names:
            self.names[key] = f"{prefix}{len(self.names)}"
            self.declared.append(array(self.names[key], values))
            self.constant_bytes += values.nbytes
        return self.names[key]

    def _tensor(self, name: str) -> str:
        return self._constant(self.program.tensors[name].float().numpy().reshape(-1), name)

    def _optional(self, name: str | None) -> str:
        return self._tensor(name) if name else "NULL"

    def _at(self, view: View) -> str:
        """The address of the view's first value."""
        buffer = view.buffer
        if buffer.constant:
            base, offset = self._tensor(buffer.constant), 0
        elif buffer is self.program.input or buffer is self.program.output.buffer:
            base, offset = "input" if buffer is self.program.input else "output", 0
        else:
            base, offset = "arena", self.offsets[buffer]
        offset += int(view.meta.storage_offset())
        return f"{base} + {offset}" if offset else base

    # Statements, one function a kind of step.

    def _layer(self, step: Step) -> str:
        more = step.more
        weight = more["weight"]
        if weight not in self.packed:
            self.packed[weight] = pack(self.program.tensors[weight].float(), dense=self.dense)
        name = f"layer{len(self.names)}"
        self.names[step.output] = name
        fields = self._fields(more, self.packed[weight])
        lines = "".join(f"    .{key} = {value},\n" for key, value in fields.items())
        self.declared.append(f"/* {plain(weight)} */\nstatic const layer {name} = {{\n{lines}}};")
        return f"run_layer(&{name}, {self._at(step.inputs[0])}, {self._at(step.output)});"

    def _fields(self, more: dict[str, Any], packed: Packed) -> dict[str, Any]:
        weight = more["weight"]
        channels = len(self.program.tensors[weight])
        gain, shift = self._affine(more)
        pool = more["pool"] or {"size": (1, 1), "stride": (1, 1)}
        out = more["out"]
        pooled = [(n - s) // t + 1 for n, s, t in zip(out, pool["size"], pool["stride"], strict=True)]
        one_scale = packed.kind == "floats"
        fields: dict[str, Any] = {
            "codes": self._constant(packed.values, (weight, "codes"), "w"),
            "positive": self._constant(packed.positive, "one" if one_scale else (weight, "positive")),
            "negative": "NULL" if packed.negative is None else self._constant(packed.negative, (weight, "negative")),
            "gain": "NULL" if gain is None else self._constant(gain, (id(more), "gain")),
            "shift": "NULL" if shift is None else self._constant(shift, (id(more), "shift")),
            "slope": number(more["slope"]),
            "kind": packed.kind.upper(),
            "rice": packed.rice,
            "scale_step": int(packed.positive.size > 1),
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
        fields |= {"pooled_rows": pooled[0], "pooled_columns": pooled[1]}
        rows = more["transposed_output"]
        fields["out_channel_step"] = 1 if rows else pooled[0] * pooled[1]
        fields["out_position_step"] = channels if rows else 1
        self.largest = max([self.largest, *(value for value in fields.values() if isinstance(value, int))])
        return fields

    def _affine(self, more: dict[str, Any]) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Factor and term of each output channel: the bias, or bias and BatchNorm together."""

        def read(name: str | None, default: float) -> Tensor:
            return self.program.tensors[name].double() if name else torch.tensor(default, dtype=torch.float64)

        if not more["norm"]:
            return None, read(more["bias"], 0).float().numpy() if more["bias"] else None
        norm = more["norm"]
        gain = read(norm["weight"], 1) / (read(norm["running_var"], 1) + norm["eps"]).sqrt()
        shift = (read(more["bias"], 0) - read(norm["running_mean"], 0)) * gain + read(norm["bias"], 0)
        return gain.float().numpy(), shift.float().numpy()

    def _map(self, step: Step) -> str:
        shape = step.output.meta.shape
        views = [step.output, *step.inputs] if len(step.inputs) == 2 else [step.output, *step.inputs * 2]
        strides = [view.meta.expand(shape).stride() for view in views]
        kept = [dim for dim, size in enumerate(shape) if size != 1]
        if len(kept) > 4:
            raise InputError(f"tensors of more than four dimensions have no C code, got shape {tuple(shape)}.")

        def four(numbers: Any, lead: int) -> str:
            values = [lead] * (4 - len(kept)) + [numbers[dim] for dim in kept]
            return f"(const dim[4]){{{', '.join(map(str, values))}}}"

        operands = ", ".join(f"{self._at(v)}, {four(s, 0)}" for v, s in zip(views, strides, strict=True))
        return f"map({step.more['what']}, {four(shape, 1)}, {operands});"

    def _activate(self, step: Step) -> str:
        places = f"{self._at(step.inputs[0])}, {self._at(step.output)}"
        return f"activate({step.output.meta.numel()}, {number(step.more['slope'])}, {places});"

    def _normalise(self, step: Step) -> str:
        more = step.more
        rows = step.output.meta.numel() // more["width"]
        constants = f"{self._optional(more['weight'])}, {self._optional(more['bias'])}"
        places = f"{self._at(step.inputs[0])}, {self._at(step.output)}"
        return f"normalise({rows}, {more['width']}, {number(more['eps'])}, {constants}, {places});"

    def _attend(self, step: Step) -> str:
        query, key, value = (view.meta for view in step.inputs)
        name = f"attention{len(self.names)}"
        self.names[step.output] = name
        sizes = [query.shape[1], query.shape[2], key.shape[2], query.shape[3], value.shape[3]]
        steps = ", ".join(f"{{{', '.join(map(str, tensor.stride()[1:]))}}}" for tensor in (query, key, value))
        numbers = f"{', '.join(map(str, sizes))}, {steps}, {number(step.more['scale'])}"
        self.declared.append(f"static const attention {name} = {{{numbers}}};")
        places = ", ".join(self._at(view) for view in (*step.inputs, step.output))
        return f"attend(&{name}, {places});"


def _buffers(step: Step) -> list[Buffer]:
    return [view.buffer for view in (step.output, *step.inputs)]


def _arena(program: Program) -> tuple[dict[Buffer, int], int]:
    """Where each buffer lies, in floats, and how many in all: buffers in use at the same time do not overlap."""
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
