"""Where in the user's own code an error came from, so that messages show that line instead of this package's stack."""

from __future__ import annotations

import linecache
import site
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_OWN = Path(__file__).resolve().parent


def _installed() -> tuple[Path, ...]:
    """Folders whose code nobody edits: the standard library's and those of installed packages."""
    named = [sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple({Path(folder).resolve() for folder in (*named, *site.getsitepackages()) if folder})


_INSTALLED = _installed()


@dataclass(frozen=True)
class Frame:
    """One line of the user's code.

    Attributes:
        file: its path.
        line: its number, from 1.
        function: the function that it belongs to.
    """

    file: str
    line: int
    function: str

    @property
    def code(self) -> str:
        """The line itself; empty where its file cannot be read."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        shown = f": {self.code}" if self.code else ""
        return f"{Path(self.file).name}, line {self.line}, in {self.function}{shown}"


def is_users(file: str) -> bool:
    """Whether a source file is neither this package's, nor the standard library's, nor an installed package's."""
    if file.startswith("<"):  # made at run time: dataclasses, named tuples, frozen importlib
        return False
    path = Path(file).resolve()
    return not any(path.is_relative_to(folder) for folder in (_OWN, *_INSTALLED))


def user_frame(error: BaseException) -> Frame | None:
    """The innermost frame of an error's traceback that lies in the user's own code.

    Args:
        error: caught anywhere; where it has none of its own, the error that it was raised from is looked at.

    Returns:
        The frame, or None where no frame is the user's.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if (found := _innermost(current.__traceback__)) is not None:
            return found
        current = current.__cause__ or current.__context__
    return None


def _innermost(traceback: TracebackType | None) -> Frame | None:
    found = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if is_users(code.co_filename):
            found = Frame(code.co_filename, traceback.tb_lineno, code.co_qualname)
        traceback = traceback.tb_next
    return found


def explain(error: BaseException) -> str:
    """The error's type and message in one line, and the user's line where it happened if there is one."""
    text = " ".join(str(error).split())[:500]
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frame = user_frame(error)
    return f"{said} ({frame})" if frame else said
