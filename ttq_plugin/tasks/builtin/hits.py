"""`hits-*`: emboli and artefacts in transcranial Doppler (HITS, high-intensity transient signals), two models.

The papers' recordings are private. A user's own come with ``--data``; without it the signals are SIMULATED
(``dopplersim``): numbers from them compare methods with each other, never with the papers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttq_plugin.tasks.builtin.cnn import CNN2D
from ttq_plugin.tasks.builtin.dopplersim import simulate
from ttq_plugin.tasks.builtin.transformer import CNNTransformer
from ttq_plugin.tasks.readers.hits_hdf5 import read_hdf5
from ttq_plugin.tasks.readers.hits_recordings import CLASSES, SAMPLES, Recordings
from ttq_plugin.tasks.readers.hits_wav import read_folder
from ttq_plugin.tasks.subjects import three_ways
from ttq_plugin.tasks.task import Data, Recipe, Split, Task

WINDOW = 128
HOP = 8
"""The papers call it the overlap; in their code that argument is the step from one window to the next."""

DEPTH = 60.0
"""Decibels from a picture's brightest point down to black."""

CHANNELS, ROWS, COLUMNS = 3, 224, 96

View = Callable[[Tensor], Tensor]


def scaled(signals: Tensor) -> Tensor:
    """Each signal (n, 2, samples) by its largest |I + jQ|, which becomes 1; silence stays."""
    largest = torch.hypot(signals[:, :1], signals[:, 1:]).amax(dim=2, keepdim=True)
    return signals / torch.where(largest > 0, largest, 1)


def picture(signals: Tensor) -> Tensor:
    """Log spectrogram of I + jQ as the 2D CNN's image.

    Power of the Fourier transform in decibels, Blackman windows of 128 samples every 8 that lie inside the signal, both
    directions of flow with frequency 0 in the middle; from 60 dB below each picture's largest (0) to the largest (1);
    160 frames of 128 rows resized to 224x96, bilinear and antialiased. The papers give window, step and the image's
    size, not how it has three channels: here all three are the same grey picture, stored once.

    Args:
        signals: I and Q, shape (n, 2, samples).

    Returns:
        Shape (n, 3, 224, 96), in [0, 1]; negative frequencies in the upper rows.
    """
    window = torch.blackman_window(WINDOW, periodic=True)
    grey = []
    for part in signals.split(256):
        spectrum = torch.stft(
            torch.complex(part[:, 0], part[:, 1]),
            WINDOW,
            HOP,
            window=window,
            center=False,
            onesided=False,
            return_complex=True,
        )
        power = torch.fft.fftshift(spectrum, dim=1).abs().square()
        brightest = power.amax(dim=(1, 2), keepdim=True)
        share = power / torch.where(brightest > 0, brightest, 1)
        image = 1 + 10 / DEPTH * share.clamp_min(10 ** (-DEPTH / 10)).log10()
        grey.append(F.interpolate(image.unsqueeze(1), (ROWS, COLUMNS), mode="bilinear", antialias=True))
    return torch.cat(grey).clamp(0, 1).expand(-1, CHANNELS, -1, -1)


def simulated() -> Recordings:
    """1200 SIMULATED signals of 40 simulated people, the same in every call."""
    made = simulate()
    return Recordings(made.signals, made.labels, made.subjects)


def load(source: Path | None, seed: int, *, view: View) -> Data:
    """Transients in blood flow, split by subject, seeded; about 70 % train, 15 % validate, 15 % test.

    Args:
        source: An HDF5 file (see ``read_hdf5``) or a folder of WAV files (see ``read_folder``). None: the SIMULATED
            signals, with a warning.
        seed: Random seed of the splits; the simulated signals are the same for all.
        view: Scaled signals (n, 2, 1400) -> the model's input (n, ...).

    Returns:
        The three splits; label 0 artefact or unknown, 1 gaseous, 2 solid embolus.

    Raises:
        InputError: If the recordings are missing, damaged, not of that form, or of too few subjects.
    """
    if source is None:
        warnings.warn("no --data was given: the Doppler signals are SIMULATED.", stacklevel=2)
        recordings = simulated()
    else:
        recordings = read_folder(source) if source.is_dir() else read_hdf5(source)
    parts = three_ways(
        recordings.subjects, recordings.labels, CLASSES, seed, source=source or "the simulation", noun="subject"
    )
    x, y = scaled(torch.from_numpy(recordings.signals)), torch.from_numpy(recordings.labels)
    train, validation, test = (Split(view(x[part]), y[part]) for part in parts)
    return Data(train, validation, test, simulated=source is None)


def _task(
    model: str, words: str, make: Callable[[], nn.Module], view: View, shape: tuple[int, ...], recipe: Recipe
) -> Task:
    return Task(
        name=f"hits-{model}",
        description="emboli and artefacts in transcranial Doppler, SIMULATED unless --data names recordings, three "
        f"classes, split by subject; {words}",
        load=partial(load, view=view),
        model=make,
        loss=F.cross_entropy,
        recipe=recipe,
        balanced=True,
        shape=shape,
    )


HITS_2DCNN = _task(
    "2dcnn",
    "spectrograms 3x224x96; 2D CNN of 1.68 million parameters",
    partial(CNN2D, CHANNELS, ROWS, COLUMNS, CLASSES),
    picture,
    (CHANNELS, ROWS, COLUMNS),
    Recipe(epochs=10, lr=3e-4, batch_size=32, weight_decay=1e-2, optimizer="adamw", schedule="one-cycle"),
)

HITS_CNN_TRANSFORMER = _task(
    "cnn-transformer",
    "I and Q of 1400 samples; CNN-Transformer of 0.77 million parameters",
    partial(CNNTransformer, 2, SAMPLES, CLASSES, width=128, layers=8, hidden=64, projection=10),
    lambda signals: signals,
    (2, SAMPLES),
    Recipe(epochs=40, lr=3e-4, batch_size=32, weight_decay=1e-2, optimizer="adamw", schedule="one-cycle"),
)
"""Both recipes are sensible guesses, not tuned."""

TASKS = {task.name: task for task in (HITS_2DCNN, HITS_CNN_TRANSFORMER)}
