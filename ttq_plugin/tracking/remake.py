"""The command that reproduces a trial's model bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttq_plugin.support.names import shell
from ttq_plugin.tracking.records import TrialRecord


def remake(task: str, record: TrialRecord, inputs: Mapping[str, Any] | None = None) -> str:
    """A line for a shell.

    Args:
        task: The task of the study.
        record: The trial.
        inputs: Data, cache, weights and device that the search was given, if any.

    Returns:
        A `ttq compress` command; one thread, as the search's workers have: sums depend on the number of threads.
    """
    values = {**record.parameters, "seed": record.seed, **(inputs or {})}
    given = {f"--{name.replace('_', '-')}": _text(value) for name, value in values.items() if value is not None}
    words = [word for option in given.items() for word in option]
    return f"OMP_NUM_THREADS=1 {shell(['ttq', 'compress', task, *words, '--out', 'compressed.safetensors'])}"


def inputs_of(
    data: Path | str | None, cache: Path | str | None, weights: Path | str | None, device: str
) -> dict[str, str | None]:
    """Further inputs on which a trial's model depends, for reproducing it; None for the default.

    Args:
        data: The user's data file.
        cache: Folder of trained full-precision models.
        weights: The user's own full-precision model.
        device: torch's name of the device that trained it.

    Returns:
        Absolute paths and the device by option.
    """
    paths = {"data": data, "cache": cache, "weights": weights}
    inputs = {name: None if path is None else str(Path(path).absolute()) for name, path in paths.items()}
    return inputs | {"device": None if device == "cpu" else device}


def _text(value: Any) -> str:
    """A float as the shortest digits that are read back as the same float."""
    return repr(value) if isinstance(value, float) else str(value)
