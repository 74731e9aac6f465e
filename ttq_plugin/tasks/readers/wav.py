"""Reads one WAV file; every problem is reported in one sentence."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.support.limits import check_size

LARGEST_WAV = 1 << 28
"""Bytes of a recording."""

MOST_CHUNKS = 1000
"""Parts of a WAV file; most have three."""


def read_wav(path: Path, where: str, form: str, channels: int) -> tuple[int, NDArray[Any]]:
    """Read and check one file.

    Args:
        path: The file; it exists.
        where: What to call it at the beginning of a sentence.
        form: What is needed, at the end of the sentence.
        channels: How many it must have.

    Returns:
        Samples a second; the samples as they are stored, shape (samples,) for one channel, else (samples, channels).

    Raises:
        InputError: If it is too large, damaged, no WAV file, or has another number of channels.
    """
    from scipy.io import wavfile

    check_size(path, LARGEST_WAV, form)
    _check_chunks(path, where, form)
    try:
        with warnings.catch_warnings(action="ignore", category=wavfile.WavFileWarning):  # chunks that do not matter
            warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
            rate, samples = wavfile.read(path)
    except Exception as error:  # whatever SciPy meets in a damaged file, an UnboundLocalError among it
        raise InputError(f"{where} is damaged or not a WAV file ({error}); {form}.") from None
    if (found := 1 if samples.ndim == 1 else samples.shape[1]) != channels:
        raise InputError(f"{where} has {found} channel{'s' * (found > 1)}, not {channels}; {form}.")
    return rate, samples


def centred(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Samples around zero: eight bits are stored without a sign, silence at 128."""
    with np.errstate(over="ignore"):  # told as not finite
        values: NDArray[np.float32] = samples.astype(np.float32)
    return values - 128 if samples.dtype == np.uint8 else values


def _check_chunks(path: Path, where: str, form: str) -> None:
    """Refuse a file whose parts claim more than there is: SciPy would make room for it first."""
    size, at = path.stat().st_size, 12
    with path.open("rb") as file:
        order: Literal["little", "big"] = "big" if (kind := file.read(4)) == b"RIFX" else "little"
        if kind == b"RF64":
            raise InputError(
                f"{where} is an RF64 file, the format for more than 4 gigabytes; save it as a plain WAV file; {form}."
            )
        for _ in range(MOST_CHUNKS):
            file.seek(at)
            head = file.read(8)
            if len(head) < 8:
                return
            length = int.from_bytes(head[4:], order)
            if head[:4] == b"data" and at + 8 + length > size:
                raise InputError(f"{where} is damaged or not a WAV file ({length} bytes of samples claimed); {form}.")
            at += 8 + length + length % 2
    raise InputError(f"{where} must have at most {MOST_CHUNKS} parts, but it has more; {form}.")
