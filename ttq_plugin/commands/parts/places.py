"""Checks output paths before the work whose result is to be written there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import click

from ttq_plugin.errors import InputError
from ttq_plugin.support.files import folder_on_the_way, place_of


class Target(click.Path):
    """A file (or, if allowed, a folder) that a command writes when its work is done."""

    def __init__(self, *, folder: bool = False, file_okay: bool = True) -> None:
        super().__init__(path_type=Path, file_okay=file_okay)
        self._folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check that the path can be written; nothing is left there."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        try:
            # Path drops a trailing slash or dot, with which a user names a folder.
            if not self._folder and os.path.basename(os.fspath(value)) in ("", ".", ".."):
                raise InputError(f"{value} cannot be written (it is a folder); name a file in it.")
            check_place(path, folder=self._folder)
        except InputError as error:
            self.fail(str(error), param, ctx)
        return path


def check_place(path: Path, *, folder: bool = False) -> None:
    """Check that a file can be created at a path, so that no work is done whose result would be lost.

    Args:
        path: The path; missing folders are created when it is written.
        folder: Whether the path may be a folder.

    Raises:
        InputError: If it is a folder instead of a file, a device, or in a folder that cannot be written.
    """
    place = place_of(path, folder=folder)
    try:
        with tempfile.NamedTemporaryFile(dir=folder_on_the_way(place), prefix=".ttq-"):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); choose another place.") from None
