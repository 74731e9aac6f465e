"""Reads spoken digits from a folder of WAV files that are named by digit, speaker and take."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.support.limits import check_bytes
from ttq_plugin.tasks.readers.wav import centred, read_wav

RATE = 8000
"""Samples a second."""

DIGITS = 10

SHORTEST = 400
"""Samples of a recording: 50 milliseconds, less than any word takes."""

MOST_FILES = 1 << 17
"""Recordings in a folder; the Free Spoken Digit Dataset has 3000."""

FORM = (
    "a folder of WAV files {digit}_{speaker}_{take}.wav is needed, such as 7_jackson_32.wav, with one channel and "
    f"{RATE} samples a second, as in the Free Spoken Digit Dataset"
)

_NAME = re.compile(r"([0-9])_([^_/]+)_(\d{1,6})\.wav")


@dataclass(frozen=True)
class Spoken:
    """Recordings, n of them.

    Attributes:
        signals: float32, shape (n, samples): each from -1 to 1, its middle, with zeros on both sides where it is short.
        labels: int64, shape (n,): the digits.
        speakers: Who spoke, shape (n,).
    """

    signals: NDArray[np.float32]
    labels: NDArray[np.int64]
    speakers: NDArray[np.str_]


def read_digits(folder: Path, samples: int) -> Spoken:
    """Read and check all recordings of a folder.

    Args:
        folder: The WAV files; other files in it are left alone.
        samples: How long each recording becomes.

    Returns:
        The recordings, sorted by speaker, digit and take.

    Raises:
        InputError: If a file is damaged or not of that form, a take is there twice, or a speaker lacks a digit; the
            file or the speaker is named.
    """
    found: dict[tuple[str, int, int], Path] = {}
    for path in sorted(folder.glob("*.[wW][aA][vV]")):
        digit, speaker, take = _named(path)
        if (key := (speaker, digit, take)) in found:
            raise InputError(f"{path} is the same take as {found[key].name}; {FORM}.")
        found[key] = path
    if not found:
        raise InputError(f"{folder} holds no WAV files; {FORM}.")
    _check_speakers(folder, {(speaker, digit) for speaker, digit, _ in found})
    check_bytes(f"{folder}: its recordings", (len(found), samples), 4, FORM)
    keys = sorted(found)
    signals = np.stack([_signal(found[key], samples) for key in keys])
    return Spoken(signals, np.array([digit for _, digit, _ in keys]), np.array([speaker for speaker, _, _ in keys]))


def _named(path: Path) -> tuple[int, str, int]:
    """Digit, speaker and take."""
    name = _NAME.fullmatch(path.name.lower() if path.suffix != ".wav" else path.name)
    if name is None:
        raise InputError(f"{path} must be named by digit, speaker and take; {FORM}.")
    return int(name[1]), name[2], int(name[3])


def _check_speakers(folder: Path, spoken: set[tuple[str, int]]) -> None:
    speakers = sorted({speaker for speaker, _ in spoken})
    for speaker in speakers:
        if missing := [digit for digit in range(DIGITS) if (speaker, digit) not in spoken]:
            raise InputError(
                f"{folder}: the speaker {speaker} has no recording of {', '.join(map(str, missing))}; record "
                f"{'it' if len(missing) == 1 else 'them'}, or take the speaker out."
            )


def _signal(path: Path, samples: int) -> NDArray[np.float32]:
    rate, stored = read_wav(path, str(path), FORM, channels=1)
    if rate != RATE:
        raise InputError(f"{path} has {rate} samples a second, not {RATE}; {FORM}.")
    if len(stored) < SHORTEST:
        raise InputError(f"{path} has {len(stored)} samples, fewer than {SHORTEST}; {FORM}.")
    values = centred(stored)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: sample {int((~np.isfinite(values)).argmax())} is NaN or infinite; {FORM}.")
    if not np.ptp(values):
        raise InputError(f"{path} is silent: all its samples are {values[0]:g}; {FORM}.")
    if stored.dtype.kind in "iu":
        values = values / np.float32(128 if stored.dtype == np.uint8 else -float(np.iinfo(stored.dtype).min))
    spare = samples - len(values)
    if spare <= 0:
        return values[-spare // 2 :][:samples]
    return np.pad(values, (spare // 2, spare - spare // 2))
