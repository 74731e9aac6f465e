"""The command that makes a trial's model once more, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttq_plugin.support.names import shell
from ttq_plugin.tracking import TrialRecord


def remake(task: str, record: TrialRecord, inputs: Mapping[str, Any] | None = None) -> str:
    """A line for a shell.

    Args:
        task: what the study searched.
        record: the trial.
        inputs: data, cache, weights and device that the search was given, if any.

    Returns:
        A `ttq compress` command; one thread, as the search's workers have: sums depend on the number of threads.
    """
    values = {**record.parameters, "seed": record.seed, **(inputs or {})}
    given = {f"--{name.replace('_', '-')}": _text(value) for name, value in values.items() if value is not None}
    words = [word for option in given.items() for word in option]
    return f"OMP_NUM_THREADS=1 {shell(['ttq', 'compress', task, *words, '--out', 'compressed.safetensors'])}"


def _text(value: Any) -> str:
    """A float as the shortest digits that are read back as the same float."""
    return repr(value) if isinstance(value, float) else str(value)
