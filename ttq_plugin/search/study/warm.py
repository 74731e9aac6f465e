"""Settings to start with: the front of an earlier study, or a table."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ttq_plugin.errors import InputError
from ttq_plugin.search import keys
from ttq_plugin.search.space.ranges import SHARED, Problem, own_names
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.study.study import load_study
from ttq_plugin.support.limits import LARGEST_SETTINGS, check_lines

_PARAMETERS = ("method", *SHARED, *dict.fromkeys(name for own in own_names().values() for name in own))


def starts(sources: Sequence[str], space: Space, storage: str) -> list[dict[str, Any]]:
    """The settings of all sources, as fixed parameters for `study.enqueue_trial`.

    Args:
        sources: The path of a CSV file (its name ends so), or the name of a study in the same storage.
        space: What is to be searched; it must be able to draw them.
        storage: The studies' database URL.

    Returns:
        Fixed parameters; what a source leaves open is drawn.

    Raises:
        InputError: If a source is missing, or none of its settings fits the space.
    """  # noqa: DOC502 - raised by what it calls
    found = []
    for source in sources:
        read = (
            _from_csv(Path(source), space) if source.lower().endswith(".csv") else _from_study(source, space, storage)
        )
        found += [space.fixed(entry) for entry in read]
    return found


def _from_csv(path: Path, space: Space) -> list[dict[str, Any]]:
    """Every row, refused where the search could not draw it: a table is written for the space."""
    if path.is_file():
        check_lines(path, LARGEST_SETTINGS)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or "is not a CSV file in UTF-8"
        raise InputError(f"The settings {path} cannot be read: {why}.") from None
    if not rows:
        raise InputError(f"The settings {path} need a row of names such as method, t_min, lr and a row for each one.")
    _check_columns(path, rows[0], space)
    entries = []
    for line, row in enumerate(rows, start=2):
        try:
            entries.append(_entry(row, space))
        except Problem as problem:
            where = "".join(f" {part}" for part in problem.path)
            raise InputError(f"The settings {path}, line {line}:{where} {problem}.") from None
    return entries


def _check_columns(path: Path, row: Mapping[str, Any], space: Space) -> None:
    """A front's table has columns of results too, so an unknown name is refused only where it looks like a mistake."""
    if "method" not in row and len(space.methods) > 1:
        raise InputError(f"The settings {path} need a column method, got {', '.join(str(name) for name in row)}.")
    for name in row:
        close = difflib.get_close_matches(str(name), _PARAMETERS, n=1, cutoff=0.8)
        if name not in _PARAMETERS and close:
            raise InputError(f"The settings {path} have a column {name!r}; did you mean {close[0]}?")


def _from_study(name: str, space: Space, storage: str) -> list[dict[str, Any]]:
    """The front's settings that this space can draw; an earlier search may well have had other ranges."""
    trials = load_study(storage, name).best_trials
    entries, problem = [], None
    for trial in sorted(trials, key=lambda trial: trial.number):
        try:
            entries.append(_entry(trial.user_attrs.get(keys.PARAMETERS, {}), space))
        except Problem as error:
            problem = problem or f"{' '.join(str(part) for part in error.path)} {error}"
    if not entries:
        why = f"none of its {len(trials)} fits this space ({problem})" if trials else "it has none"
        raise InputError(f"The study {name!r} has no front to begin with: {why}.")
    return entries


def _entry(values: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """One setting under plain names, without what its method does not have."""
    method = values.get("method") or next(iter(space.methods))
    names = [*own_names().get(method, ()), *(name for name in SHARED if space.applies(method, name))]
    given = {name: values[name] for name in names if values.get(name) not in {None, ""}}
    return space.check_setting((), {"method": method, **given})
