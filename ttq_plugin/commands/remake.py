"""The command that makes a trial's model once more, bit for bit."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ttq_plugin.tracking import TrialRecord


def remake(task: str, record: TrialRecord, inputs: Mapping[str, Any] | None = None) -> str:
    """A line for a shell.

    Args:
        task: what the study searched.
        record: the trial.
        inputs: data, device and cache that the search was given, if any.

    Returns:
        A `ttq compress` command; one thread, as the search's workers have: sums depend on the number of threads.
    """
    values = {**record.parameters, "seed": record.seed, **(inputs or {})}
    words = [f"--{name.replace('_', '-')} {shlex.quote(_text(value))}" for name, value in values.items()
             if value is not None]  # fmt: skip
    return " ".join(["OMP_NUM_THREADS=1 ttq compress", shlex.quote(task), *words, "--out compressed.safetensors"])


def _text(value: Any) -> str:
    """A float as the shortest digits that are read back as the same float."""
    return repr(value) if isinstance(value, float) else str(value)
