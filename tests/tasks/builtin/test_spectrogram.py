"""The spectrogram against a Fourier transform written out."""

from __future__ import annotations

import numpy as np
import pytest

from ttq_plugin.tasks.builtin.spectrogram import spectrogram


def naive(signal):
    """Window by window, frequency by frequency; the Blackman window by its definition."""
    n = np.arange(32)
    window = 0.42 - 0.5 * np.cos(2 * np.pi * n / 32) + 0.08 * np.cos(4 * np.pi * n / 32)
    frames = []
    for start in range(0, len(signal) - 31, 4):
        part = signal[start : start + 32] * window
        power = [abs(np.sum(part * np.exp(-2j * np.pi * k * n / 32))) ** 2 for k in range(-16, 16)]
        frames.append([20 * np.log10(max(p, 1e-12)) for p in power])
    decibels = np.array(frames).T
    return np.clip(decibels, decibels.mean(), decibels.mean() + 9 * decibels.std())


def test_against_a_transform_written_out():
    signals = np.random.default_rng(0).uniform(size=(3, 178))
    found = spectrogram(signals)
    assert found.shape == (3, 32, 37) and found.dtype == np.float32
    for picture, signal in zip(found, signals, strict=True):
        np.testing.assert_allclose(picture, naive(signal), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("frequency", [2, 5, 11])
def test_a_tone_is_two_lines_around_the_middle(frequency):
    tone = np.sin(2 * np.pi * frequency * np.arange(178) / 32)
    picture = spectrogram(tone[None])[0]
    assert set(np.argsort(picture.mean(axis=1))[-2:]) == {16 - frequency, 16 + frequency}
    np.testing.assert_allclose(picture[1:16], picture[:16:-1], atol=1e-3)  # a real signal: the other half is the same


def test_an_outlier_is_clipped_from_above():
    signal = 1e-4 * np.random.default_rng(0).standard_normal(8000)
    signal[4000:4004] = 1e3
    picture = spectrogram(signal[None])[0]
    expected = naive(signal)
    assert 2 < (expected == expected.max()).sum() < 300  # so many lie beyond 9 standard deviations
    np.testing.assert_allclose(picture, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_silence_is_finite(value):
    found = spectrogram(np.stack([np.full(178, value), np.random.default_rng(0).uniform(size=178)]))
    assert np.isfinite(found).all()
    assert np.array_equal(found[1:], spectrogram(np.random.default_rng(0).uniform(size=(1, 178))))
