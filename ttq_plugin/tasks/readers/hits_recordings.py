"""A user's own transcranial Doppler recordings: what every reader of them returns and checks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError

CLASSES = 3
"""0 artefact or unknown, 1 gaseous embolus, 2 solid embolus."""

SAMPLES = 1400
"""Samples of I and of Q that the models see (Vindas et al. 2024): the middle of a longer recording."""

RATES = (1400.0, 14_000.0)
"""Samples a second, least and largest: the 1400 then span a second to a tenth, where a transient has room."""

FORM = (
    "an HDF5 file is needed (datasets signals (n, 2, samples) of I and Q, labels (n,) and subjects (n,); attribute "
    "rate in hertz), or a folder with labels.csv (columns file, label, subject) and its stereo WAV files (left I, "
    f"right Q), labels 0 artefact or unknown, 1 gaseous, 2 solid embolus, at least {SAMPLES} samples each"
)

Numbers = TypeVar("Numbers", bound=np.generic)


@dataclass(frozen=True)
class Recordings:
    """Transients with some blood flow around them, n of them.

    Attributes:
        signals: I and Q, float32, shape (n, 2, 1400), in the file's units.
        labels: int64, shape (n,), from 0 to 2.
        subjects: int64, shape (n,): whose it is.
    """

    signals: NDArray[np.float32]
    labels: NDArray[np.int64]
    subjects: NDArray[np.int64]


def check_rate(where: object, rate: float) -> None:
    """Check that 1400 samples are a stretch of time in which a transient fits.

    Args:
        where: File and row, for the message.
        rate: Samples per second.

    Raises:
        InputError: If it is outside ``RATES``.
    """
    if not (math.isfinite(rate) and RATES[0] <= rate <= RATES[1]):
        raise InputError(
            f"{where}: the rate must lie from {RATES[0]:g} to {RATES[1]:g} samples per second, got {rate:g}; {FORM}."
        )


def middle(signals: NDArray[Numbers]) -> NDArray[Numbers]:
    """The middle 1400 samples of the last axis, which is at least as long."""
    first = (signals.shape[-1] - SAMPLES) // 2
    return signals[..., first : first + SAMPLES]
