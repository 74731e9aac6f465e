"""What a trained model depends on, as one hash: the code of the user's model and loss, and the weights it starts with.

Code is compared as Python compiled it, with everything of the user's that it refers to: comments and layout do not
matter, another activation or a changed constant does. Installed packages are named, not read.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.frames import is_users

OWN = Path(__file__).resolve().parents[1]

PLAIN = (torch.dtype, torch.device, torch.Size, range, Path, enum.Enum)
"""Values whose text says all that they are."""


def identity(model: nn.Module, factory: Callable[..., Any], loss: Callable[..., Any]) -> str:
    """A short hash of what is trained, apart from data and recipe.

    Args:
        model: as it starts: its modules, their options, and its weights.
        factory: what made it.
        loss: what it is trained by.

    Returns:
        16 hexadecimal digits; equal for equal code and weights, in every process of one Python version.
    """
    found = hashlib.sha256()
    found.update(repr(model).encode())
    walker = _Walker()
    for part in (factory, loss, *dict.fromkeys(type(module) for module in model.modules())):
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


class _Walker:
    """Goes through code and values, each once."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # a number of an object is its own only while it lives

    def words(self, value: Any) -> Iterator[str]:
        """What tells this value from another one."""
        if isinstance(value, str | int | float | complex | bool | bytes | type(None)):
            yield f"{type(value).__name__} {value!r}"
        elif isinstance(value, PLAIN):
            yield repr(value)
        elif isinstance(value, Tensor):
            yield hashlib.sha256(_tensor(value)).hexdigest()
        elif id(value) in self._seen:
            yield "again"
        else:
            self._seen.add(id(value))
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
        if isinstance(value, nn.Module):
            yield repr(value)
            yield from self.words(
                {name: tensor for name, tensor in value.state_dict().items() if torch.is_tensor(tensor)}
            )
        state = getattr(value, "__dict__", None)
        if state and _followed(type(value).__module__):
            yield from self.words({name: state[name] for name in sorted(state) if not name.startswith("_")})

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
        yield code.co_code.hex()
        yield repr(code.co_names + code.co_varnames)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                yield from self._code(constant, names)
            else:
                yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
        for name in code.co_names:
            if name in names and not isinstance(names[name], types.ModuleType):
                yield name
                yield from self.words(names[name])

    def _class(self, kind: type) -> Iterator[str]:
        yield f"class {kind.__module__}.{kind.__qualname__}"
        if not _followed(kind.__module__):
            return
        for base in kind.__mro__[1:]:
            yield from self.words(base)
        for name, value in sorted(vars(kind).items()):
            if name in ("__dict__", "__weakref__", "__module__", "__doc__", "__annotations__", "__firstlineno__",
                        "__static_attributes__") or isinstance(value, types.MemberDescriptorType):  # fmt: skip
                continue
            yield name
            plain = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            parts = (plain.fget, plain.fset) if isinstance(plain, property) else (plain,)
            yield from self._all(parts)


def _followed(module: str | None) -> bool:
    """Whether code of that module is read: the user's, and the built-in tasks' of this package."""
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    if module == "__main__" or file is None:
        return module == "__main__"
    return is_users(file) or Path(file).resolve().is_relative_to(OWN / "tasks")
