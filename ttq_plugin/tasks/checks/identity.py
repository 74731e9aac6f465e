"""Hashes what a trained model depends on: the code of the user's model and loss, and the initial weights.

Code is compared as Python compiled it, with everything of the user's that it refers to: comments and layout do not
matter, another activation or a changed constant does. Installed packages are named, not read.
"""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ttq_plugin.support.frames import is_users

OWN = Path(__file__).resolve().parents[2]

PLAIN = (torch.dtype, torch.device, torch.Size, range, Path, enum.Enum)
"""Values whose text says all that they are."""

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Another one in each process."""

UNREAD = frozenset({"__dict__", "__weakref__", "__module__", "__doc__", "__annotations__", "__firstlineno__",
                    "__static_attributes__", "__abstractmethods__", "_abc_impl"})  # fmt: skip
"""Entries of classes that say nothing about what they compute."""


def identity(
    model: nn.Module, factory: Callable[..., Any], loss: Callable[..., Any], *others: Callable[..., Any] | None
) -> str:
    """A short hash of what is trained, apart from data and recipe.

    Args:
        model: The untrained model: its modules, their options and its weights.
        factory: What made it.
        loss: What it is trained by.
        others: What else has a part in the training, such as the function that collates batches.

    Returns:
        16 hexadecimal digits; equal for equal code and weights, in every process of one Python version.
    """
    found = hashlib.sha256()
    found.update(_text(model).encode())
    walker = _Walker()
    kinds = dict.fromkeys(type(module) for module in model.modules())
    options = [_options(module) for module in model.modules()]
    for part in (factory, loss, *kinds, *options, *(other for other in others if other is not None)):
        found.update("\n".join(walker.words(part)).encode())
    for name, value in model.state_dict().items():
        found.update(name.encode())
        found.update(_tensor(value))
    return found.hexdigest()[:16]


def _tensor(value: Any) -> bytes:
    if not isinstance(value, Tensor):  # an extra state
        return repr(value).encode()
    flat = value.detach().cpu().contiguous().reshape(-1)
    return f"{value.dtype}{tuple(value.shape)}".encode() + (
        flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""
    )


def _text(value: Any) -> str:
    """How it shows itself, without its place in memory."""
    return ADDRESS.sub("", repr(value))


def _options(module: nn.Module) -> dict[str, Any]:
    """Attributes of a module that are neither parts of it nor weights, such as a number of heads or an activation."""
    return {name: value for name, value in sorted(vars(module).items()) if not name.startswith("_")}


class _Walker:
    """Goes through code and values, each once."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # a number of an object is its own only while it lives

    def words(self, value: Any) -> Iterator[str]:
        """What distinguishes this value from another one."""
        if isinstance(value, str | int | float | complex | bool | bytes | type(None)):
            yield f"{type(value).__name__} {value!r}"
        elif isinstance(value, PLAIN):
            yield repr(value)
        elif isinstance(value, np.generic | np.ndarray) and value.dtype != object:
            yield f"{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
        elif isinstance(value, Tensor):
            yield hashlib.sha256(_tensor(value)).hexdigest()
        elif id(value) in self._seen:
            yield f"again {self._seen[id(value)]}"
        else:
            self._seen[id(value)] = len(self._seen)
            self._kept.append(value)
            yield from self._new(value)

    def _new(self, value: Any) -> Iterator[str]:
        if isinstance(value, functools.partial):
            yield from self._all((value.func, value.args, value.keywords))
        elif isinstance(value, types.MethodType):
            yield from self._all((value.__func__, value.__self__))
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, types.ModuleType):
            yield f"module {value.__name__}"
        elif isinstance(value, Mapping):
            for key in value:
                yield from self._all((str(key), value[key]))
        elif isinstance(value, tuple | list):
            yield f"{type(value).__name__} of {len(value)}"
            yield from self._all(value)
        elif isinstance(value, set | frozenset):
            yield f"set {sorted(map(repr, value))}"
        else:
            yield from self._object(value)

    def _all(self, values: Any) -> Iterator[str]:
        for value in values:
            yield from self.words(value)

    def _object(self, value: Any) -> Iterator[str]:
        """Such as a loss with options; of a module its weights too."""
        yield from self.words(type(value))
        inner = getattr(value, "__wrapped__", None) or getattr(value, "func", None)  # of a cached function or property
        if callable(inner):
            yield from self.words(inner)
        if isinstance(value, nn.Module):
            yield _text(value)
            yield from self.words(
                {name: tensor for name, tensor in value.state_dict().items() if torch.is_tensor(tensor)}
            )
            yield from self.words(_options(value))
        elif _followed(type(value).__module__):
            state = getattr(value, "__dict__", {})
            yield from self.words({name: state[name] for name in sorted(state)})
        else:
            yield _text(value)  # torch.tanh, a configuration

    def _function(self, function: types.FunctionType) -> Iterator[str]:
        yield f"def {function.__module__}.{function.__qualname__}"
        if not _followed(function.__module__):
            return
        yield from self._code(function.__code__, function.__globals__)
        yield from self._all((function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                yield from self.words(cell.cell_contents)
            except ValueError:  # not filled yet
                yield "empty"

    def _code(self, code: types.CodeType, names: Mapping[str, Any]) -> Iterator[str]:
        steps = list(dis.get_instructions(code))
        for step, after in zip(steps, [*steps[1:], steps[-1]], strict=True):
            if "STORE_NAME __doc__" in (f"{s.opname} {s.argval}" for s in (step, after)):
                continue  # the docstring of a class in a function
            yield step.opname
            if isinstance(step.argval, types.CodeType):
                yield from self._code(step.argval, names)
            elif step.opcode in dis.hasconst:
                yield _constant(step.argval)
            elif step.opcode in dis.hasjrel or step.opcode in dis.hasjabs:
                yield str(step.arg)
            elif step.opname != "RESUME":
                yield f"{step.arg} {step.argval}" if isinstance(step.argval, int) else str(step.argval)
        for name, value in _meant(code.co_names, names):
            yield name
            yield from self.words(value)

    def _class(self, kind: type) -> Iterator[str]:
        yield f"class {kind.__module__}.{kind.__qualname__}"
        if not _followed(kind.__module__):
            return
        for base in kind.__mro__[1:]:
            yield from self.words(base)
        for name, value in sorted(vars(kind).items()):
            if name in UNREAD or isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
                continue
            yield name
            plain = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            parts = (plain.fget, plain.fset) if isinstance(plain, property) else (plain,)
            yield from self._all(parts)


def _constant(value: Any) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _meant(words: tuple[str, ...], names: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What the names in a function's code refer to, also in the user's modules that it imports or uses."""
    package = names.get("__package__") or ""
    waiting: list[tuple[str, Any]] = []
    for word in words:
        for place in (word, f"{package}.{word}"):  # imported where it is needed
            if word not in names and place in sys.modules:
                waiting.append((place, sys.modules[place]))
        if word in names:
            waiting.append((word, names[word]))
    seen: set[int] = set()
    while waiting:
        name, value = waiting.pop(0)
        if not isinstance(value, types.ModuleType):
            yield name, value
        elif id(value) not in seen and _followed(value.__name__):
            seen.add(id(value))
            waiting += [(f"{name}.{word}", getattr(value, word)) for word in words if hasattr(value, word)]


def _followed(module: str | None) -> bool:
    """Whether code of that module is read: the user's, and the built-in tasks' of this package."""
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    if module == "__main__" or file is None:
        return module == "__main__"
    return is_users(file) or Path(file).resolve().is_relative_to(OWN / "tasks")
