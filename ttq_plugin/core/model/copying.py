"""Copies models that hold objects that Python cannot copy: an activation with its graph, a lock, an open file."""

from __future__ import annotations

import io
import operator
import pickle
from collections.abc import Callable
from copy import deepcopy
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)

_ALONE = (type, FunctionType, BuiltinFunctionType, ModuleType)
"""Types that ``deepcopy`` does not copy either."""


def copied(model: Model) -> Model:
    """Make a deep copy of a model, whatever it holds besides its parameters.

    Where ``copy.deepcopy`` fails, tensors that are part of a graph (an activation that a forward pass kept, the weight
    of a layer that torch normalises or prunes by a hook) are copied without it, and objects that cannot be copied are
    shared with the original.

    Args:
        model: Any module; not changed.

    Returns:
        The copy.
    """
    ways: tuple[Callable[[Model], Model], ...] = (deepcopy, lambda whole: _through_pickle(whole, False))
    for make in ways:
        try:
            return make(model)
        except Exception:  # noqa: S112 - whatever a class of the user's raises, the next way may be open
            continue
    return _through_pickle(model, True)


def _through_pickle(model: Model, share_objects: bool) -> Model:
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, share_objects)
    pickler.dump(model)
    buffer.seek(0)
    result: Model = _Unpickler(buffer, pickler.table).load()
    return result


class _Table(list[Any]):
    """Objects that the pickled stream refers to by number: copies of tensors, and shared objects."""


class _Pickler(pickle.Pickler):
    """Writes the structure of a model; tensors and objects that cannot be written go into a table."""

    def __init__(self, buffer: io.BytesIO, share_objects: bool) -> None:
        super().__init__(buffer, pickle.HIGHEST_PROTOCOL)
        self.table = _Table()
        self.share_objects = share_objects
        # With the objects themselves, because an id may be reused once its object is gone.
        self._places: dict[int, tuple[object, int]] = {}
        self._tensors: dict[int, Any] = {}

    def persistent_id(self, obj: Any) -> int | None:  # noqa: D102 - pickle's name
        if obj is self.table:
            return -1
        if isinstance(obj, Tensor):
            return self._place(obj, _tensor_copy)
        return self._place(obj, _itself) if isinstance(obj, _ALONE) else None

    def reducer_override(self, obj: Any) -> Any:  # noqa: D102 - pickle's name
        if isinstance(obj, nn.Module):
            return object.__new__, (type(obj),), _state(obj)
        if isinstance(obj, MethodType):
            return MethodType, (obj.__func__, obj.__self__)
        try:
            reduced = NotImplemented if self.share_objects else obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        except Exception:
            reduced = NotImplemented
        if isinstance(reduced, tuple) or (self.share_objects and type(obj).__module__ in ("collections", "builtins")):
            return reduced
        return operator.getitem, (self.table, self._place(obj, _itself))

    def _place(self, obj: Any, replace: Any) -> int:
        if id(obj) not in self._places:
            self.table.append(replace(obj, self._tensors))
            self._places[id(obj)] = obj, len(self.table) - 1
        return self._places[id(obj)][1]


class _Unpickler(pickle.Unpickler):
    """Reads what ``_Pickler`` wrote in this process."""

    def __init__(self, buffer: io.BytesIO, table: _Table) -> None:
        super().__init__(buffer)
        self.table = table

    def persistent_load(self, pid: int) -> Any:  # noqa: D102 - pickle's name
        return self.table if pid < 0 else self.table[pid]


def _state(module: nn.Module) -> Any:
    """The state of a module to be copied; parametrized modules refuse to give theirs for pickling."""
    try:
        return module.__getstate__()
    except RuntimeError:
        return dict(vars(module))


def _tensor_copy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    try:
        result: Tensor = deepcopy(tensor, memo)
        return result
    except RuntimeError:
        return tensor.detach().clone()


def _itself(obj: Any, memo: dict[int, Any]) -> Any:
    return obj
