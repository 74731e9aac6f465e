"""Finds the line of the user's own code that caused an error, to show it instead of this package's stack."""

from __future__ import annotations

import linecache
import re
import site
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ttq_plugin.errors import Diverged, InputError

_OWN = Path(__file__).resolve().parents[1]


def _installed() -> tuple[Path, ...]:
    """Folders of installed code: the standard library, installed packages, and their commands."""
    named = [sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")]
    return tuple({Path(folder).resolve() for folder in (*named, *site.getsitepackages()) if folder})


_INSTALLED = _installed()

_ELSEWHERE = "Original Traceback (most recent call last):"
"""What torch writes before the traceback of another process or thread, which it passes on as text."""

_TOLD = re.compile(r'^  File "(.+)", line (\d+), in (.+)$', re.MULTILINE)


@dataclass(frozen=True)
class Frame:
    """One line of the user's code.

    Attributes:
        file: Its path.
        line: Its number, from 1.
        function: The function that it belongs to.
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
        error: The caught error; if it has no such frame, the error that it was raised from is searched.

    Returns:
        The frame, or None where no frame is the user's.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if (found := _told(str(current)) or _innermost(current.__traceback__)) is not None:
            return found
        current = current.__cause__ or current.__context__
    return None


def _told(text: str) -> Frame | None:
    """The innermost of the user's frames in a traceback that came as text."""
    if _ELSEWHERE not in text:
        return None
    frames = [Frame(file, int(line), function) for file, line, function in _TOLD.findall(text)]
    return next((frame for frame in reversed(frames) if is_users(frame.file)), None)


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
    kind, text = type(error).__name__, str(error).strip()
    if _ELSEWHERE in text:
        said = text.splitlines()[-1]
    else:
        text = " ".join(text.split())[:500].rstrip(".")
        said = f"{kind}: {text}" if text else kind
    frame = user_frame(error)
    return f"{said} ({frame})" if frame else said


@contextmanager
def of_the_user(what: str, *, always: bool = True) -> Iterator[None]:
    """Turn an exception of the user's code into one sentence that names the user's line.

    Args:
        what: Whose code it is, to begin the sentence with.
        always: Whether an exception that passed no line of the user's is turned too.

    Yields:
        Nothing.

    Raises:
        InputError: For any exception but the two that pass.
        SystemExit: If ``always`` is false, and it passed no line of the user's.
        Diverged: As it came, like InputError.
    """
    try:
        yield
    except (InputError, Diverged):
        raise
    except (Exception, SystemExit) as error:  # code that exits would end the program without a message
        if not always and user_frame(error) is None:
            raise
        raise InputError(f"{what} failed: {explain(error)}.") from error
