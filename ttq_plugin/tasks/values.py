"""Values that the author of a task gives, checked when its objects are made."""

from __future__ import annotations

import os
from numbers import Integral
from typing import Any

from ttq_plugin.errors import InputError
from ttq_plugin.support.arguments import shown
from ttq_plugin.support.names import check_name


def check_workers(count: Any) -> None:
    """Check a number of processes that read ahead; thousands would overload the machine.

    Args:
        count: The number.

    Raises:
        InputError: If it is no whole number, negative, or more than this machine can use.
    """
    most = max(64, 4 * (os.cpu_count() or 1))
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= most:
        raise InputError(f"workers of Data must be a whole number from 0 to {most}, got {shown(count)}.")


def shape_of(shape: Any) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
    """A task's shape as tuples of whole numbers.

    Args:
        shape: Sizes, or several lists of sizes.

    Returns:
        The same as tuples.

    Raises:
        InputError: If it is something else.
    """

    def sizes(part: Any) -> tuple[int, ...] | None:
        known = isinstance(part, tuple | list) and all(
            isinstance(size, Integral) and not isinstance(size, bool) and int(size) > 0 for size in part
        )
        return tuple(map(int, part)) if known else None

    if (whole := sizes(shape)) is not None:
        return whole
    parts = [sizes(part) for part in shape] if isinstance(shape, tuple | list) else [None]
    if found := [part for part in parts if part is not None]:
        if len(found) == len(parts):
            return tuple(found)
    raise InputError(
        f"shape of a task must be a tuple of positive whole numbers, or a tuple of such tuples, got {shape!r:.80}."
    )


def classes_of(classes: Any) -> tuple[str, ...]:
    """The names of a task's classes as a tuple.

    Args:
        classes: The names.

    Returns:
        The names.

    Raises:
        InputError: If one is no name, or there twice.
    """
    if not isinstance(classes, tuple | list):
        raise InputError(f"classes of a task must be a tuple of names, got {shown(classes)}.")
    for name in classes:
        check_name("the name of a class", name)
    if twice := [name for place, name in enumerate(classes) if name in classes[:place]]:
        raise InputError(f"classes of a task must have different names, got {twice[0]!r} twice.")
    return tuple(classes)
