"""A small file in the form of the Epileptic Seizure Recognition CSV."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

HEADER = ",".join(["Unnamed", *(f"X{i}" for i in range(1, 179)), "y"])


def lines(each: int = 10, chunks: int = 3) -> list[str]:
    """Header and rows: `each` recordings a class, in shuffled order; seizures swing wider and faster."""
    rng = np.random.default_rng(0)
    rows = []
    for recording in range(5 * each):
        label = recording % 5 + 1
        for chunk in range(1, chunks + 1):
            phase = rng.uniform(0, 2 * np.pi)
            wave = np.sin(np.arange(178) * (0.9 if label == 1 else 0.1) + phase) + 0.2 * rng.standard_normal(178)
            values = ",".join(str(round(v)) for v in 100 * wave)
            rows.append(f"X{chunk}.V1.{recording + 1},{values},{label}")
    return [HEADER, *(rows[i] for i in rng.permutation(len(rows)))]


def write(path: Path, rows: list[str], end: str = "\n") -> Path:
    """The rows in a file, compressed if its name ends in .gz."""
    text = (end.join(rows) + end).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def edit(rows: list[str], line: int, column: int, value: str) -> list[str]:
    """The rows with one cell replaced; lines count from 1, the header's."""
    cells = rows[line - 1].split(",")
    cells[column] = value
    return [*rows[: line - 1], ",".join(cells), *rows[line:]]
