"""Runs cells in worker processes; each result is a separate file, so that a killed run can be continued."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ttq_plugin.errors import InputError
from ttq_plugin.reproduce.train import Place, train_cell
from ttq_plugin.support.files import digest_of, write_text
from ttq_plugin.support.processes import become_worker, ended_like_ctrl_c

Result = dict[str, Any]
OnResult = Callable[[Any, Result], None]
OnRefused = Callable[[Any, InputError], None]
CRASHES = 3
"""Worker pools that may break in a row without a result in between."""


@dataclass(frozen=True)
class Folder:
    """The folder of results, with one JSON file per cell.

    Attributes:
        path: The folder.
        data: Which data the results were made with, for the fingerprints.
    """

    path: Path
    data: str

    def known(self, cell: Any) -> Result | None:
        """The cell's result if it was made with the same settings and data; a damaged file counts as none."""
        try:
            result: Result = json.loads(self._file(cell).read_text())
            digest = result.pop("digest", None)  # earlier versions wrote none
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            return None
        if digest is not None and digest != digest_of(result):
            return None
        return result if result.get("fingerprint") == cell.fingerprint(self.data) else None

    def keep(self, cell: Any, result: Result) -> Result:
        """Write the cell's result, whole or not at all; returns it with its fingerprint."""
        marked = result | {"fingerprint": cell.fingerprint(self.data)}
        whole = marked | {"digest": digest_of(marked)}
        write_text(self._file(cell), json.dumps(whole, indent=1, allow_nan=False) + "\n")
        return marked

    def _file(self, cell: Any) -> Path:
        return self.path / f"{cell.key}.json"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder; two runs at once would train everything twice.

        Yields:
            Nothing.

        Raises:
            InputError: If another process holds it, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            guard = FileLock(self.path / ".lock")
            guard.acquire(timeout=0)
        except Timeout:
            raise InputError(f"another process is writing results to {self.path}; wait until it ends.") from None
        except OSError as error:
            raise InputError(f"the folder {self.path} cannot be written ({error.strerror or error}).") from None
        try:
            yield
        finally:
            guard.release()


def data_identity(data: str | None) -> str:
    """Which data a result was made with: name and size of the file, or that it is the task's own."""
    source = data or os.environ.get("TTQ_DATA_DIR")
    if source is None:
        return "own"
    path = Path(source)
    return f"{path.name}:{path.stat().st_size if path.is_file() else 'folder'}"


def run_cells(
    cells: Sequence[Any],
    place: Place,
    folder: Folder,
    *,
    workers: int,
    on_result: OnResult,
    work: Callable[[Any, Place], Result] = train_cell,
    on_refused: OnRefused | None = None,
) -> int:
    """Run the trainings that have no result yet.

    Args:
        cells: The table's.
        place: The data, the cache and the device.
        folder: The folder of the results.
        workers: Processes at a time.
        on_result: Called for each cell with a result, known or new; here, in the parent.
        work: What trains a cell, in a worker.
        on_refused: Called for each cell whose data or settings cannot be used, and why; the others go on. None: the
            first such cell ends everything.

    Returns:
        How many were trained now.

    Raises:
        InputError: If a cell's data or settings cannot be used, without ``on_refused``.
        RuntimeError: If workers are killed again and again.
        KeyboardInterrupt: On Ctrl-C and on SIGTERM; what is finished is kept.
    """
    todo: list[Any] = []
    for cell in cells:
        known = folder.known(cell)
        if known is None:
            todo.append(cell)
        else:
            on_result(cell, known)
    # All full-precision models come first, because two workers on the same one would wait for each other.
    todo.sort(key=lambda cell: cell.settings is not None)
    count, crashes = len(todo), 0
    while todo:
        before = len(todo)
        try:
            with ended_like_ctrl_c(signal.SIGTERM):
                _round(todo, place, folder, workers, on_result, work, on_refused)
        except BrokenProcessPool:
            crashes = crashes + 1 if len(todo) == before else 1
            if crashes >= CRASHES:
                raise RuntimeError(
                    f"workers were killed {crashes} times in a row; check whether the machine has enough memory."
                ) from None
    return count


def _round(
    todo: list[Any],
    place: Place,
    folder: Folder,
    workers: int,
    on_result: OnResult,
    work: Callable[[Any, Place], Result],
    on_refused: OnRefused | None,
) -> None:
    """One pool's work; a cell leaves ``todo`` once its result is kept, or it is refused."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(todo)), mp_context=context, initializer=become_worker)
    try:
        waiting = {pool.submit(work, cell, place): cell for cell in todo}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                cell = waiting.pop(future)
                try:
                    found = future.result()
                except InputError as error:
                    if on_refused is None:
                        raise
                    todo.remove(cell)
                    on_refused(cell, error)
                    continue
                result = folder.keep(cell, found)
                todo.remove(cell)
                on_result(cell, result)
    except BaseException:
        for process in list((pool._processes or {}).values()):  # a training does not look at cancel_futures
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
