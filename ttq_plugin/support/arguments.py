"""Checks the arguments of public functions against their type hints before they are used."""

from __future__ import annotations

import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sized
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ttq_plugin.errors import InputError

_WORDS: dict[Any, str] = {
    str: "a string",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    Path: "a path",
    types.NoneType: "None",
    dict: "a dict",
}
_PLURALS: dict[Any, str] = {str: "strings", int: "whole numbers", float: "numbers", Path: "paths", dict: "dicts"}


def check_types(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Check that each argument is of the type that its hint names.

    Whole numbers count as numbers, True and False as neither; a string is not taken for a list of strings. What only
    their use can show, such as the values of a mapping or an iterator, is not checked.

    Args:
        function: The function, or the dataclass, that has the hints.
        given: The arguments by name, as ``locals()`` holds them in the function's first line.

    Raises:
        InputError: If one is of another type; the message names the argument, the required type and the given value.
    """
    for name, hint in _hints(function).items():
        if name in given and not _fits(given[name], hint):
            raise InputError(f"{name} must be {_described(hint)}, got {shown(given[name])}.")


def no_less(value: float, digits: int = 4) -> str:
    """A lower limit in a few digits, rounded up, so that whoever types it keeps to it.

    Args:
        value: The limit.
        digits: Digits to show.

    Returns:
        The number, as Python reads it.
    """
    return _rounded(value, digits, ROUND_CEILING)


def no_more(value: float, digits: int = 4) -> str:
    """An upper limit in a few digits, rounded down, so that whoever types it keeps to it.

    Args:
        value: The limit.
        digits: Digits to show.

    Returns:
        The number, as Python reads it.
    """
    return _rounded(value, digits, ROUND_FLOOR)


def exact(value: float) -> str:
    """A number that came, in six digits where they tell it exactly, or else whole."""
    return short if float(short := f"{value:g}") == value else str(value)


def _rounded(value: float, digits: int, rounding: str) -> str:
    return f"{float(Context(prec=digits, rounding=rounding).create_decimal_from_float(value)):.{digits}g}"


def shown(value: object) -> str:
    """Describe a value for a message, in a few words on one line.

    Args:
        value: Any object.

    Returns:
        A short number, string or None as Python writes it; of anything else its type, with what a list holds.
    """
    if value is None or isinstance(value, (bool, int, float, str, bytes, Path)):
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:77]}..."
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, (list, tuple)) and value:
        return f"{type(value).__name__} of {type(value[0]).__name__}"
    return type(value).__name__


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The hints of all arguments but those that take any number of them."""
    found = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    single = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    return {name: hint for name, hint in found.items() if name in single}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; True for hints of a kind that nothing is known of."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, tuple({type(one) for one in inner}))
    kind = origin or hint
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, (bool, np.bool_))
    if kind is bool:
        return isinstance(value, (bool, np.bool_))
    if kind is Path:
        return isinstance(value, os.PathLike)
    if kind is Callable:
        return callable(value)
    if kind in (Any, tuple) or not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return True
    if not issubclass(kind, Iterable) or issubclass(kind, (str, bytes)):
        return isinstance(value, kind)
    return _holds(value, kind, inner)


def _holds(value: Any, kind: type, inner: tuple[Any, ...]) -> bool:
    """Whether a value is a mapping or a list, or another iterable, of elements of a type."""
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and (not inner or all(_fits(key, inner[0]) for key in value))
    if not issubclass(kind, Collection) and kind is not Iterable:
        return isinstance(value, kind)
    if isinstance(value, (str, bytes, type)) or not isinstance(value, Iterable):
        return False
    if not inner or inner[0] is Any or not isinstance(value, Sized):  # an iterator's elements are its user's
        return True
    return all(_fits(element, inner[0]) for element in value)


def _described(hint: Any) -> str:
    """A type in words."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return _word(hint)
    words = [_word(one) for one in inner if not (one is str and Path in inner)]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _word(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    kind = origin or hint
    if kind in _WORDS:
        return _WORDS[kind]
    if kind is Callable:
        return "a function"
    if not isinstance(kind, type):
        return str(kind)
    if issubclass(kind, Mapping):
        return "a dict"
    if issubclass(kind, Collection) or kind is Iterable:
        plural = _PLURALS.get(typing.get_origin(inner[0]) or inner[0]) if inner else None
        return f"a list of {plural}" if plural else "a list"
    if kind.__name__ == "Module":
        return "a torch module"
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
