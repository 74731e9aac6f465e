"""Structs of the C code: their fields in order, and the bytes that they take on a 32-bit ARM processor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ELEMENTS = {"TABLE": "look_up", "COPY": "copy", "ADD": "add", "MULTIPLY": "multiply"}
"""Switch -> the function of single numbers that it brings."""

UNITS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn"}
"""Switch -> the function of a recurrent unit's gates that it brings."""

SIZES = {"pointer": 4, "int32": 4, "int16": 2, "uint8": 1, "int8": 1}
"""Bytes of a field, which are also its alignment."""


@dataclass(frozen=True)
class Struct:
    """A struct's fields.

    Attributes:
        name: Name of the struct in C.
        fields: Name -> type and count; ``dim`` is 16 or 32 bits wide.
    """

    name: str
    fields: tuple[tuple[str, str, int], ...]

    def size(self, dim: int) -> int:
        """Bytes of one, with the padding at its end.

        Args:
            dim: Bytes of a ``dim``.

        Returns:
            The bytes.
        """
        at, widest = 0, 1
        for _, kind, count in self.fields:
            each = dim if kind == "dim" else SIZES[kind]
            at = aligned(at, each) + each * count
            widest = max(widest, each)
        return aligned(at, widest)

    def alignment(self, dim: int) -> int:
        """Alignment of the widest field."""
        return max(dim if kind == "dim" else SIZES[kind] for _, kind, _ in self.fields)


def aligned(at: int, to: int) -> int:
    """The next multiple."""
    return -(-at // to) * to


def _fields(text: str, kind: str) -> list[tuple[str, str, int]]:
    found = []
    for word in text.split():
        name, _, count = word.partition(":")
        found.append((name, kind, int(count or 1)))
    return found


STEP = Struct("step", (*_fields("run more a b y", "pointer"), *_fields("places", "uint8")))
LOOPS = Struct(
    "loops",
    (
        *_fields("what factors table", "pointer"),
        *_fields("size:4 y:4 a:4 b:4", "dim"),
        *_fields("a_zero b_zero ends:3", "int8"),
        *_fields("shift", "uint8"),
    ),
)
LAYER = Struct(
    "layer",
    (
        *_fields("codes positive negative bias table taps edges", "pointer"),
        *_fields(
            "groups channels rows columns channel_step row_step column_step "
            "kernel_rows kernel_columns row_stride column_stride row_padding column_padding row_dilation "
            "column_dilation out_channels weights most_taps pool_rows pool_columns pool_row_stride pool_column_stride "
            "pooled_rows pooled_columns out_channel_step out_position_step",
            "dim",
        ),
        *_fields("kind rice factor_step bias_kind bias_shift shift padded", "uint8"),
        *_fields("x_zero ends:3", "int8"),
    ),
)
POOLING = Struct(
    "pooling",
    (
        *_fields("factors spans", "pointer"),
        *_fields("channels rows columns channel_step row_step column_step", "dim"),
        *_fields("window:2 stride:2 padding:2 dilation:2 out:2", "dim"),
        *_fields("mean padded adaptive shift", "uint8"),
        *_fields("x_zero ends:3", "int8"),
    ),
)
REDUCTION = Struct(
    "reduction",
    (
        *_fields("factors", "pointer"),
        *_fields("size:4 step:4 gone:4 gone_step:4", "dim"),
        *_fields("mean shift", "uint8"),
        *_fields("x_zero ends:3", "int8"),
    ),
)
MATRICES = Struct(
    "matrices",
    (
        *_fields("factors", "pointer"),
        *_fields("size:5 a:4 b:4", "dim"),
        *_fields("shift", "uint8"),
        *_fields("a_zero b_zero ends:3", "int8"),
    ),
)
SHARES = Struct(
    "shares",
    (
        *_fields("factors powers", "pointer"),
        *_fields("size:4 x:4 hidden:4 y:4 powers_count", "dim"),
        *_fields("causal masked shift", "uint8"),
        *_fields("ends:3", "int8"),
    ),
)
NORM = Struct(
    "norm",
    (
        *_fields("factors epsilon bias", "pointer"),
        *_fields("rows width", "dim"),
        *_fields("factor_step epsilon_shift centred bias_kind bias_shift shift", "uint8"),
        *_fields("x_zero ends:3", "int8"),
    ),
)
EMBEDDING = Struct(
    "embedding",
    (
        *_fields("table", "pointer"),
        *_fields("count rows width row_bytes", "dim"),
        *_fields("bytes ternary", "uint8"),
        *_fields("values:3", "int8"),
    ),
)
RECURRENCE = Struct(
    "recurrence",
    (
        *_fields("unit parts:2 curve factors", "pointer"),
        *_fields("length hidden x_step y_step", "dim"),
        *_fields("gates backward cell_bits shift", "uint8"),
        *_fields("ends:3", "int8"),
    ),
)


@dataclass
class Data:
    """All constants of a model, in the order in which they lie in flash.

    Attributes:
        structs: Values of each struct, by the struct's name, with a comment each.
        words: int32.
        halves: int16.
        bytes: uint8.
        largest: The largest number that a ``dim`` must hold.
    """

    structs: dict[str, list[tuple[dict[str, Any], str]]] = field(default_factory=dict)
    words: list[int] = field(default_factory=list)
    halves: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    largest: int = 0
    known: dict[Any, int] = field(default_factory=dict)

    def add(self, struct: Struct, values: dict[str, Any], comment: str = "") -> int:
        """Add a struct's values.

        Args:
            struct: Name of the struct.
            values: Values by field; lists for arrays, texts for pointers.
            comment: Comment that precedes them.

        Returns:
            Its place among its like.
        """
        assert set(values) == {name for name, _, _ in struct.fields}, set(values) ^ {f[0] for f in struct.fields}
        for name, kind, _ in struct.fields:
            if kind == "dim":
                several = values[name] if isinstance(values[name], list | tuple) else [values[name]]
                self.largest = max(self.largest, *(int(value) for value in several))
        entries = self.structs.setdefault(struct.name, [])
        entries.append((values, comment))
        return len(entries) - 1

    def put(self, kind: str, values: list[int]) -> int:
        """Where numbers lie in ``words``, ``halves`` or ``bytes``; the same numbers are stored once.

        Args:
            kind: Which of the three.
            values: The numbers.

        Returns:
            The place of the first.
        """
        key = (kind, tuple(values))
        if key not in self.known:
            array: list[int] = getattr(self, kind)
            self.known[key] = len(array)
            array.extend(values)
        self.largest = max(self.largest, self.known[key] + len(values))
        return self.known[key]

    @property
    def dim(self) -> int:
        """Bytes of a ``dim``."""
        return 2 if self.largest < 1 << 16 else 4

    def size(self) -> int:
        """Bytes of the whole on a 32-bit ARM processor."""
        at = 0
        for struct in STRUCTS:
            entries = len(self.structs.get(struct.name, []))
            if entries:
                at = aligned(at, struct.alignment(self.dim)) + entries * struct.size(self.dim)
        for array, width in ((self.words, 4), (self.halves, 2), (self.bytes, 1)):
            at = aligned(at, width) + width * max(1, len(array))
        return aligned(at, 4)


STRUCTS = (STEP, LOOPS, LAYER, POOLING, REDUCTION, MATRICES, SHARES, NORM, EMBEDDING, RECURRENCE)
"""The structs, in the order in which they lie in flash."""
