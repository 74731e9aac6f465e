"""A signal as the papers' networks take it: scaled, and for the 2D CNN as a picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WINDOW = 32
HOP = 4
FLOOR = 1e-12
"""Power below which rounding decides; the largest of a signal in [0, 1] is 180. Also what keeps silence from log 0."""


def scaled(signals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each signal to [0, 1] by its own minimum and maximum; a constant one to zeros. Shape (signals, samples)."""
    least = signals.min(axis=1, keepdims=True)
    spread = np.ptp(signals, axis=1, keepdims=True)
    shares: NDArray[np.float64] = (signals - least) / np.where(spread > 0, spread, 1)
    return shares


def spectrogram(signals: NDArray[np.float64]) -> NDArray[np.float32]:
    """Power of the short-time Fourier transform in decibels, clipped to [mean, mean + 9 std] of each signal's.

    20 log10 |STFT|^2 with a Blackman window of 32 samples every 4, over the windows that lie inside the signal,
    two-sided, frequency 0 in row 16 (Vindas et al. 2024). Their released code keeps the real part of the transform only
    and leaves the last frame empty; here it is the magnitude of every frame.

    Args:
        signals: Scaled to [0, 1], shape (signals, samples).

    Returns:
        Shape (signals, 32, frames); 178 samples give 37 frames.
    """
    from scipy.signal import ShortTimeFFT

    transform = ShortTimeFFT.from_window("blackman", 1.0, WINDOW, WINDOW - HOP, fft_mode="centered", phase_shift=None)
    inside = {"p0": transform.lower_border_end[1], "p1": transform.upper_border_begin(signals.shape[1])[1]}
    power = transform.spectrogram(signals, **inside)
    decibels = 20 * np.log10(np.maximum(power, FLOOR))
    mean = decibels.mean(axis=(1, 2), keepdims=True)
    std = decibels.std(axis=(1, 2), keepdims=True)
    clipped: NDArray[np.float32] = np.clip(decibels, mean, mean + 9 * std).astype(np.float32)
    return clipped
