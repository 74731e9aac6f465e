"""Reading an ``.npy`` file that holds a pickled object, without running anything that the file names.

A pickle is a program: it names functions of any module and calls them, so that ``pickle.load`` and
``numpy.load(allow_pickle=True)`` run whatever the author of a file wishes. This reader is the only place of the package
that reads pickles. It is safe for four reasons:

- The whole program is read first, without running it. It may use only the instructions in ``INSTRUCTIONS``, and place
  numbers (of the memo, for which pickle allocates memory) must lie inside the file.
- Only the exact names in ``GLOBALS`` may be asked for, all of which numpy writes for arrays. Every other name is
  refused, and is not imported.
- Even those names do not lead to numpy's code: each stands for a small class or function below, which notes what
  describes an array. (Numpy's own ``dtype.__setstate__`` takes flags that let bytes pass for pointers.)
- Arrays are made from bytes and one of a few numeric types, by ``numpy.frombuffer``, and no more than the file holds.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ttq_plugin.errors import InputError
from ttq_plugin.support.limits import LARGEST_TABLE, check_size

INSTRUCTIONS = frozenset(
    "PROTO FRAME STOP MARK GLOBAL STACK_GLOBAL REDUCE BUILD "
    "NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT "
    "BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS "
    "BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET".split()
)
"""What pickle writes for dictionaries, lists, tuples, text, numbers and numpy's arrays in its protocols 2 to 4."""

GLOBALS = {
    ("numpy", "ndarray"): "array",
    ("numpy", "dtype"): "dtype",
    ("numpy.core.multiarray", "_reconstruct"): "empty",
    ("numpy._core.multiarray", "_reconstruct"): "empty",
    ("_codecs", "encode"): "encode",
}
"""The names that numpy 1 and 2 write, and what each stands for here (see ``_Unpickler``)."""

LARGEST = 1 << 26
"""Bytes of a file; pickle makes room for places up to the file's length."""

_NUMERIC = re.compile(r"b1|[iu][1248]|f[248]")


def read_pickled_object(path: Path, form: str) -> Any:
    """The object in a file that ``numpy.save`` wrote for something that is no array, such as a dictionary.

    Args:
        path: The ``.npy`` file.
        form: What file is needed, for messages.

    Returns:
        The object: dictionaries, lists, tuples, text, numbers, and numeric arrays, which are read-only.

    Raises:
        InputError: If the file is missing, damaged, of another form, or asks for anything but numpy's arrays.
    """
    if not path.is_file():
        raise InputError(f"the data file {path} does not exist; {form}.")
    check_size(path, LARGEST, form)
    check_size(path, LARGEST_TABLE, form)
    try:
        program = _program(path.read_bytes())
        _check(program)
        return _plain(_Unpickler(program).load(), len(program))
    except Exception as error:  # whatever a damaged program makes pickle and numpy raise
        why = str(error) or type(error).__name__
        raise InputError(f"{path} cannot be read, it is damaged or of another form ({why}); {form}.") from None


def _program(content: bytes) -> bytes:
    """What follows the header of an ``.npy`` file, which must announce one pickled object."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its header has version {version[0]}.{version[1]}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if shape != () or dtype != np.dtype(object):
        raise ValueError(f"it holds an array of shape {shape} and type {dtype}, not one object")
    return content[stream.tell() :]


def _check(program: bytes) -> None:
    """Refuse a program with other instructions, or with numbers that make pickle allocate more than the file."""
    for instruction, argument, _ in pickletools.genops(program):
        if instruction.name not in INSTRUCTIONS:
            what = f" {argument!r:.80}" if isinstance(argument, str) else ""
            raise ValueError(f"the pickle instruction {instruction.name}{what} is not allowed")
        if instruction.name in ("BINPUT", "LONG_BINPUT") and int(argument or 0) >= len(program):
            raise ValueError(f"it puts something in place {argument} of {len(program)} bytes")


class _Dtype:
    """A numeric type, or the type of objects: what ``numpy.dtype`` stands for."""

    __slots__ = ("name",)

    def __init__(self, name: str, *_: object) -> None:
        if not isinstance(name, str) or not (name in ("O", "O8") or _NUMERIC.fullmatch(name)):
            raise ValueError(f"arrays of type {name!r:.40} are not allowed")
        self.name = name

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"the byte order {order!r:.40} is none")
        if not self.name.startswith("O"):
            self.name = order + self.name


class _Array:
    """An array as its pickle describes it: what ``numpy.ndarray`` stands for."""

    __slots__ = ("content", "dtype", "order", "shape")

    def __init__(self) -> None:
        self.content: bytes | list[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"the shape {shape!r:.40} is none")
        if not isinstance(dtype, _Dtype) or not isinstance(content, list if dtype.name.startswith("O") else bytes):
            raise ValueError("an array lacks its type or its values")
        self.shape, self.dtype, self.content = shape, dtype.name, content
        self.order: Literal["C", "F"] = "F" if fortran else "C"

    def items(self) -> list[Any]:
        """The objects of an array of objects."""
        if not isinstance(self.content, list) or len(self.content) != math.prod(self.shape):
            raise ValueError("an array of objects does not hold as many as its shape says")
        return self.content

    def values(self) -> np.ndarray[Any, Any]:
        """The numbers of a numeric array."""
        if not isinstance(self.content, bytes):
            raise ValueError("an array holds objects, numbers were expected")
        flat = np.frombuffer(self.content, dtype=self.dtype)
        flat = flat.astype(flat.dtype.newbyteorder("="), copy=False)
        return flat.reshape(self.shape, order=self.order)


class _Function:
    """A function that a pickle may call but not change, as it could change attributes of a plain one."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise ValueError("a function has no state")


class _Unpickler(pickle.Unpickler):
    """Runs a program that ``_check`` has passed, with stand-ins for the names in ``GLOBALS``."""

    def __init__(self, program: bytes) -> None:
        super().__init__(io.BytesIO(program))
        self._left = len(program)
        self._stand_ins = {
            "array": _Array,
            "dtype": _Dtype,
            "empty": _Function(lambda *_: _Array()),
            "encode": _Function(self._encode),
        }

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of an allowed name; nothing is imported."""
        meaning = GLOBALS.get((module, name))
        if meaning is None:
            raise ValueError(f"it asks for {f'{module}.{name}':.80}, and only numpy's arrays are read from a pickle")
        return self._stand_ins[meaning]

    def _encode(self, text: str, encoding: str) -> bytes:
        """The bytes of an array, which protocol 2 writes as text; together no more than the file holds."""
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError(f"bytes are written as text in latin1, not as {encoding!r:.40}")
        self._left -= len(text)
        if self._left < 0:
            raise ValueError("it decodes the same text many times")
        return text.encode("latin1")


def _plain(holder: Any, most: int) -> Any:
    """The object that an array holds; its values, and items of lists among them, are arrays instead of descriptions."""
    if not isinstance(holder, _Array):
        raise ValueError("it holds no array")
    value = holder.items()[0]
    members = value.values() if isinstance(value, dict) else [value]
    left = most
    for member in members:  # a program of n bytes can repeat what it holds until n^2 / 4 bytes are asked for
        for item in member if isinstance(member, (list, tuple)) else [member]:
            left -= 1 + (len(item.content or ()) if isinstance(item, _Array) else 0)
            if left < 0:
                raise ValueError("it holds the same values many times")
    return {key: _member(item) for key, item in value.items()} if isinstance(value, dict) else _member(value)


def _member(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [item.values() if isinstance(item, _Array) else item for item in value]
    return value.values() if isinstance(value, _Array) else value
