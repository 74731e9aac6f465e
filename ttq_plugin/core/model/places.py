"""Where a ternary weight is read: at each module that holds it, however often that module reads it in a pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

BORROWED = "_ternary_borrowed"
"""Attribute of a borrowing module: its tensor -> (lending module, that one's tensor). Not registered with torch, so
that a state dict holds a tied weight once and a copy of the model copies the tie."""

HELD = "_ternary_held"
"""Attribute of a module that reads its weights more than once a pass: tensor -> its value in the current pass."""


READ_OFTEN = (nn.RNNBase, nn.MultiheadAttention)
"""Layers that read their weights more than once a pass."""


def borrow(module: nn.Module, key: str, lender: nn.Module, lent: str) -> None:
    """Let a module read another one's weight, computed by a parametrization, where it held the same parameter.

    Args:
        module: The borrower; its parameter is taken away.
        key: The borrower's name of it.
        lender: The module whose parametrization computes it.
        lent: The lender's name of it.
    """
    places: dict[str, tuple[nn.Module, str]] = module.__dict__.setdefault(BORROWED, {})
    if not places:
        # A class of its own for each module, as torch's parametrizations have: the property is the module's alone.
        module.__class__ = type(f"Tied{type(module).__name__}", (type(module),), {})
    places[key] = lender, lent
    del module._parameters[key]
    setattr(type(module), key, property(functools.partial(_read, key)))


def _read(key: str, module: nn.Module) -> Tensor:
    lender, lent = module.__dict__[BORROWED][key]
    value: Tensor = getattr(lender, lent)
    return value


def borrowed(module: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """What a module borrows: its tensor -> (lender, the lender's tensor)."""
    places: dict[str, tuple[nn.Module, str]] = module.__dict__.get(BORROWED, {})
    return places


def give_back(module: nn.Module) -> None:
    """Undo ``borrow``, all but the parameter; the module must have no parametrizations any more."""
    if module.__dict__.pop(BORROWED, None):
        module.__class__ = type(module).__bases__[0]


def read_once(module: nn.Module, keys: Iterable[str]) -> None:
    """Compute parametrized weights once in each forward pass of a layer that reads them more often.

    torch's attention reads its weight up to three times per pass. A recurrent layer also reads it three times, and then
    keeps what it read, which would be part of a graph and could not be copied.

    Args:
        module: A layer that torch parametrized.
        keys: Its parametrized tensors.
    """
    cls: Any = type(module)
    for key in keys:
        computed = getattr(cls, key)
        setattr(cls, key, property(functools.partial(_held, key, computed.fget), computed.fset))
    cls.forward = _holding(cls.__bases__[0].forward, tuple(keys))
    if isinstance(module, nn.RNNBase):
        cls._init_flat_weights = _init_flat_weights
        module._init_flat_weights()


def _held(key: str, compute: Callable[[nn.Module], Tensor], module: nn.Module) -> Tensor:
    held: dict[str, Tensor] | None = module.__dict__.get(HELD)
    return compute(module) if held is None else held[key]


def _holding(plain: Callable[..., Any], keys: tuple[str, ...]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        values = {key: getattr(self, key) for key in keys}
        self.__dict__[HELD] = values
        try:
            return plain(self, *args, **kwargs)
        finally:
            self.__dict__.pop(HELD, None)
            if isinstance(self, nn.RNNBase):
                self._init_flat_weights()

    return forward


def _init_flat_weights(self: Any) -> None:
    """Replaces torch's method, which recurrent layers call when they are moved: nothing is kept between two passes."""
    if HELD in self.__dict__:
        plain: Any = parametrize.type_before_parametrizations(self)
        plain._init_flat_weights(self)
    else:
        self._flat_weights = [None] * len(self._flat_weights_names)
        self._flat_weight_refs = [_gone] * len(self._flat_weights_names)


def _gone() -> None:
    """Replaces a weak reference to a weight, so that torch notices that the weight changed."""


def refresh(module: nn.Module) -> None:
    """Let a recurrent layer, plain again, take up its new parameters."""
    if isinstance(module, nn.RNNBase):
        with torch.no_grad():
            module._init_flat_weights()
