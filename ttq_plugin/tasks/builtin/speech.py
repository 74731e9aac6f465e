"""`speech-dscnn`: which digit a person says, a small depthwise separable CNN on log-mel spectrograms.

The recordings are WAV files {digit}_{speaker}_{take}.wav of 8 kHz, the form of the Free Spoken Digit Dataset (CC BY-SA
4.0). Each becomes one second, its middle, and of that a log-mel spectrogram of 49 frames and 40 bands. The network is
the small DS-CNN of Zhang et al. (2017, arXiv:1711.07128), which MLPerf Tiny's keyword spotting took over, with an
input of 49 by 40 instead of 49 by 10, and a first convolution that is as much wider and strides as much further.

One speaker tests, one validates and the others train. The seed says which: the speakers stand in alphabetical order,
seed k tests on speaker k, modulo their number, and validates on the next one. As many seeds as there are speakers
therefore leave each of them out once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.readers.speech_wav import DIGITS, FORM, RATE, read_digits
from ttq_plugin.tasks.task import Data, Recipe, Split, Task

SAMPLES = RATE
"""Samples of one recording: one second."""

WINDOW, HOP = 320, 160
"""Samples: 40 and 20 milliseconds."""

FRAMES = (SAMPLES - WINDOW) // HOP + 1
BANDS = 40

LOWEST, HIGHEST = 80.0, 4000.0
"""Hertz: where the mel bands begin and end."""

QUIET = 1e-6
"""Added to the power in a band before the logarithm; a full-scale sine has about 0.25 in one."""

SPEAKERS = 3
"""Smallest number of speakers: one each for training, validation and testing."""

WIDTH = 64
"""Channels of the network."""

COPIES = 3
"""Number of copies of each training recording."""

SPEEDS = (0.8, 1.25)
"""Range of a copy's speed, which shifts pitch and formants as another speaker would."""

SHIFT = SAMPLES // 10
"""Samples that a copy may come earlier or later."""

MASKS, MASKED = 2, 4
"""How many stripes of how many bands a copy lacks."""

SMOOTHING = 0.1
"""Label smoothing of the loss."""


def mel_bands(size: int = WINDOW) -> NDArray[np.float64]:
    """Triangular filters, evenly spaced in mel = 2595 log10(1 + f / 700), each of height 1.

    Args:
        size: Samples of a window.

    Returns:
        Shape (40, size / 2 + 1): the weight of each frequency of the Fourier transform in each band.
    """
    lowest, highest = (2595 * np.log10(1 + f / 700) for f in (LOWEST, HIGHEST))
    edges = np.linspace(lowest, highest, BANDS + 2)
    edges = 700 * (10 ** (edges / 2595) - 1)
    frequencies = np.fft.rfftfreq(size, 1 / RATE)
    left, middle, right = (edges[k : k + BANDS, np.newaxis] for k in range(3))
    rising, falling = (frequencies - left) / (middle - left), (right - frequencies) / (right - middle)
    bands: NDArray[np.float64] = np.clip(np.minimum(rising, falling), 0, None)
    return bands


def log_mel(signals: NDArray[np.float32]) -> Tensor:
    """Logarithm of the power in each mel band and frame.

    Args:
        signals: Signals from -1 to 1, shape (n, 8000).

    Returns:
        float32, shape (n, 1, 49, 40): the frames from first to last, the bands from low to high.
    """
    bands = torch.from_numpy(mel_bands()).float()
    window = torch.hann_window(WINDOW)
    made = []
    for part in torch.from_numpy(signals).split(256):
        spectrum = torch.fft.rfft(part.unfold(1, WINDOW, HOP) * window).abs().square() * (4 / WINDOW**2)
        made.append(torch.log(spectrum @ bands.T + QUIET))
    return torch.cat(made).unsqueeze(1)


def _separable(width: int) -> nn.Sequential:
    """A depthwise convolution 3x3 and a pointwise one, each with BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


class DSCNN(nn.Module):
    """Convolution 10x8 of strides 2 and 4, four depthwise separable blocks of 64 channels, global mean, FC 64->10.

    Input (batch, 1, 49, 40), output (batch, 10) logits; 25 610 parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, WIDTH, (10, 8), stride=(2, 4), padding=(5, 2), bias=False)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.blocks = nn.Sequential(*(_separable(WIDTH) for _ in range(4)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(WIDTH, DIGITS)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        x = self.blocks(F.relu(self.norm(self.conv(x))))
        logits: Tensor = self.fc(self.dropout(self.pool(x).flatten(1)))
        return logits


def spoken_otherwise(signals: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Recordings at other speeds and moments, by linear interpolation.

    Args:
        signals: Shape (n, samples).
        rng: Draws each one's speed and shift.

    Returns:
        The same shape; what lies outside a recording is 0.
    """
    size = signals.shape[1]
    middle = (size - 1) / 2
    speeds, shifts = rng.uniform(*SPEEDS, len(signals)), rng.uniform(-SHIFT, SHIFT, len(signals))
    made = np.zeros_like(signals)
    for row, (speed, shift) in enumerate(zip(speeds, shifts, strict=True)):
        at = middle + (np.arange(size) - middle - shift) * speed
        made[row] = np.interp(at, np.arange(size), signals[row], left=0, right=0)
    return made


def without_stripes(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Spectrograms of which each lacks some stripes of bands (Park et al. 2019, arXiv:1904.08779)."""
    x = x.clone()
    for sample, first in zip(x, rng.integers(0, BANDS - MASKED + 1, (len(x), MASKS)), strict=True):
        for band in first.tolist():
            sample[..., band : band + MASKED] = 0
    return x


def load(source: Path | None, seed: int) -> Data:
    """The recordings, with one speaker each to validate and to test.

    Args:
        source: The folder of WAV files; there is no default.
        seed: Which speaker tests; the next one validates.

    Returns:
        The three splits, with the speakers as groups; each band has mean 0 in every recording, and variance 1 over the
        training recordings, which their copies follow.

    Raises:
        InputError: Without a folder, or if its files are damaged, not of that form, or of too few speakers.
    """
    if source is None or not source.is_dir():
        came = "none was given with --data" if source is None else f"{source} is none"
        raise InputError(f"{FORM}; {came}: ttq_plugin ships no data.")
    spoken = read_digits(source, SAMPLES)
    names = np.unique(spoken.speakers)
    if len(names) < SPEAKERS:
        raise InputError(
            f"{source} has {len(names)} speaker{'s' * (len(names) > 1)} ({', '.join(names)}), at least {SPEAKERS} are "
            f"needed, one for each split; {FORM}."
        )
    test, validation = names[seed % len(names)], names[(seed + 1) % len(names)]
    chosen = (~np.isin(spoken.speakers, [test, validation]), spoken.speakers == validation, spoken.speakers == test)
    x, y = _centred(log_mel(spoken.signals)), torch.from_numpy(spoken.labels)
    scale = x[torch.from_numpy(chosen[0])].std((0, 2), keepdim=True).clamp_min(1e-3)
    learned, decided, scored = (
        Split(x[torch.from_numpy(part)] / scale, y[torch.from_numpy(part)], spoken.speakers[part]) for part in chosen
    )
    rng = np.random.default_rng(seed)
    heard = [spoken_otherwise(spoken.signals[chosen[0]], rng) for _ in range(COPIES)]
    copies = [without_stripes(_centred(log_mel(signals)) / scale, rng) for signals in heard]
    speakers = np.tile(spoken.speakers[chosen[0]], 1 + COPIES)
    return Data(Split(torch.cat([learned.x, *copies]), learned.y.repeat(1 + COPIES), speakers), decided, scored)


def _centred(x: Tensor) -> Tensor:
    """Each recording's bands less their means over its frames: what a microphone and a room add."""
    return x - x.mean(2, keepdim=True)


def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with smoothed labels, the mean over a batch."""
    return F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)


SPEECH_DSCNN = Task(
    name="speech-dscnn",
    description="spoken digits, ten classes, log-mel spectrograms 49x40, one speaker left out; DS-CNN of 25 610 "
    "parameters",
    load=load,
    model=DSCNN,
    loss=smoothed,
    recipe=Recipe(epochs=6, lr=1e-2, batch_size=64, weight_decay=1e-2, optimizer="adamw", schedule="one-cycle"),
    shape=(1, FRAMES, BANDS),
    classes=tuple(map(str, range(DIGITS))),
)

TASKS = {task.name: task for task in (SPEECH_DSCNN,)}
"""Its recipe was chosen from six by the validation speakers of three seeds."""
