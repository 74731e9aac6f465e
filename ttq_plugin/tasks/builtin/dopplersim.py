"""SIMULATED transcranial Doppler: I/Q signals of blood flow with an embolus or an artefact in each.

A stand-in for clinical recordings, which are private: it exercises models and tools, and says nothing about patients.
What it keeps are the criteria of the consensus committee (Stroke 1995, 26:1123: a microembolic signal is shorter than
300 ms, at least 3 dB above the blood, and on the flow's side of the spectrum only) and how many gaseous and how many
solid emboli are modulated in frequency (Smith et al. 1997). The other ranges below are this project's choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError

RATE = 5000
"""Samples a second, of I and of Q: frequencies from -2500 to 2500 Hz."""

SAMPLES = 1400
"""Samples of one signal: 0.28 s, so that any transient in it is shorter than 0.3 s."""

LEAST_RATIO = 3.0
"""Decibels of a transient above the blood, at least."""

ARTEFACT, GASEOUS, SOLID = range(3)

RATIOS = {ARTEFACT: (3.0, 25.0), GASEOUS: (6.0, 25.0), SOLID: (3.0, 18.0)}
"""Decibels, by class: gas reflects more than tissue, and the classes overlap."""

DURATIONS = {ARTEFACT: (0.03, 0.25), GASEOUS: (0.03, 0.2), SOLID: (0.03, 0.12)}
"""Seconds, by class."""

MODULATED = {GASEOUS: (0.19, 0.38, 0.43), SOLID: (0.715, 0.285, 0.0)}
"""Share of emboli without, with gradual and with rapid frequency modulation (Smith et al. 1997)."""

WALL = 150.0
"""Hertz: slower movement is the vessel's wall, filtered out by the instrument."""

EDGE = 30.0
"""Hertz: how soft the blood's spectrum ends."""

Signal = NDArray[np.complex128]
Real = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Simulated:
    """Simulated signals, their parts, and what was asked of them; n of them.

    Attributes:
        blood: Background I + jQ, shape (n, 1400), mean power about 1.
        transients: Embolus or artefact alone, shape (n, 1400).
        labels: 0 artefact, 1 gaseous, 2 solid embolus; shape (n,).
        subjects: Simulated person, from 0; shape (n,).
        ratios: Asked power of the transient over the blood's while it lasts, in decibels; shape (n,).
        spans: Its first sample and the one after its last, shape (n, 2).
    """

    blood: Signal
    transients: Signal
    labels: Integers
    subjects: Integers
    ratios: Real
    spans: Integers

    @property
    def signals(self) -> NDArray[np.float32]:
        """I and Q of blood and transient together, shape (n, 2, 1400)."""
        whole = self.blood + self.transients
        return np.stack([whole.real, whole.imag], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Flow:
    """One person's blood flow; frequencies in hertz are velocities.

    Attributes:
        systole: The largest Doppler frequency at the height of a beat.
        diastole: The largest Doppler frequency between beats.
        beat: Seconds from one heart beat to the next.
        noise: The receiver's noise in decibels of the blood's power.
    """

    systole: float
    diastole: float
    beat: float
    noise: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Flow:
        """A person at random."""
        systole = rng.uniform(1000, 2000)
        return cls(systole, systole * rng.uniform(0.35, 0.55), rng.uniform(0.6, 1.1), rng.uniform(-30, -18))

    def envelope(self, phase: float) -> Real:
        """The largest Doppler frequency at each sample, shape (1400,); ``phase`` in beats, where the signal begins."""
        beats = (phase + np.arange(SAMPLES) / RATE / self.beat) % 1
        rise = 0.15  # of a beat, until its height
        pulse = beats / rise * np.exp(1 - beats / rise)
        return self.diastole + (self.systole - self.diastole) * pulse


def simulate(
    counts: Sequence[int] = (400, 400, 400),
    *,
    subjects: int = 40,
    seed: int = 0,
    ratios: Mapping[int, tuple[float, float]] = RATIOS,
) -> Simulated:
    """Draw signals, class by class, each of a person drawn at random.

    Args:
        counts: How many artefacts, gaseous and solid emboli.
        subjects: How many people.
        seed: Equal seeds give equal signals.
        ratios: Least and largest decibels above the blood, by class; drawn uniformly.

    Returns:
        The signals in shuffled order.

    Raises:
        InputError: For another number of classes, no signals, no people, or ratios below 3 dB.
    """
    _check(counts, subjects, ratios)
    rng = np.random.default_rng(seed)
    flows = [Flow.drawn(rng) for _ in range(subjects)]
    labels = rng.permutation(np.repeat(np.arange(3), counts))
    people = rng.integers(subjects, size=len(labels))
    asked = np.array([rng.uniform(*ratios[label]) for label in labels.tolist()])
    fastest = np.stack([flows[person].envelope(rng.uniform()) for person in people.tolist()])
    blood = speckle(fastest, np.array([flow.noise for flow in flows])[people], rng)
    transients = np.zeros_like(blood)
    spans = np.zeros((len(labels), 2), dtype=np.int64)
    for row, label in enumerate(labels.tolist()):
        length = round(rng.uniform(*DURATIONS[label]) * RATE)
        first = int(rng.integers(SAMPLES - length + 1))
        spans[row] = first, first + length
        span = slice(first, first + length)
        alone = artefact(length, rng) if label == ARTEFACT else embolus(label, fastest[row, span], rng)
        gain = _power(blood[row, span]) / _power(alone) * 10 ** (asked[row] / 10)
        transients[row, span] = alone * np.sqrt(gain)
    return Simulated(blood, transients, labels, people, asked, spans)


def _check(counts: Sequence[int], subjects: int, ratios: Mapping[int, tuple[float, float]]) -> None:
    if len(counts) != 3 or min(counts) < 0 or sum(counts) == 0 or subjects < 1:
        raise InputError(
            "`counts` must be three numbers of at least 0, not all 0, and `subjects` at least 1; "
            f"got {tuple(counts)} and {subjects}."
        )
    for label in range(3):
        least, largest = ratios[label]
        if not LEAST_RATIO <= least <= largest < math.inf:
            raise InputError(
                f"`ratios` of class {label} must run from at least 3 dB upwards, got {least} to {largest}."
            )


def _power(signals: Signal) -> Real:
    """Mean over the last axis, which stays with length 1."""
    power: Real = np.mean(np.abs(signals) ** 2, axis=-1, keepdims=True)
    return power


def speckle(fastest: Real, noise: Real, rng: np.random.Generator) -> Signal:
    """Blood: circular Gaussian noise (many scatterers), filtered to the frequencies from 150 Hz to ``fastest``.

    All velocities up to the largest are equally frequent, as in a parabolic profile.

    Args:
        fastest: The largest Doppler frequency at each sample in hertz, shape (n, 1400).
        noise: The noise of the receiver, white, on both sides; decibels of the blood's power, shape (n,).
        rng: The random generator that draws it.

    Returns:
        I + jQ, shape (n, 1400), each signal's blood of mean power 1.
    """
    from scipy.signal import ShortTimeFFT
    from scipy.special import expit

    filtered = ShortTimeFFT.from_window("hann", RATE, 128, 96, fft_mode="centered", phase_shift=None)
    white, receiver = rng.standard_normal((2, *fastest.shape, 2)).view(np.complex128)[..., 0] / math.sqrt(2)
    at = np.clip(np.rint(filtered.t(SAMPLES) * RATE).astype(int), 0, SAMPLES - 1)
    frequencies = filtered.f[:, np.newaxis]
    passed = expit((fastest[:, np.newaxis, at] - frequencies) / EDGE) * expit((frequencies - WALL) / EDGE)
    flow = filtered.istft(filtered.stft(white) * np.sqrt(passed), k1=SAMPLES)
    signals: Signal = flow / np.sqrt(_power(flow)) + 10 ** (noise[:, np.newaxis] / 20) * receiver
    return signals


def embolus(label: int, fastest: Real, rng: np.random.Generator) -> Signal:
    """A chirp that moves with the blood, on the flow's side of the spectrum.

    Its frequency is a share of the blood's largest, plus the modulation of ``MODULATED``: none, gradual (linear) or
    rapid (a jump within about a tenth of its duration).

    Args:
        label: GASEOUS or SOLID.
        fastest: The blood's largest frequency while it passes in hertz, shape (samples,).
        rng: The random generator that draws it.

    Returns:
        I + jQ with a Hann envelope, shape (samples,).
    """
    from scipy.special import expit

    along = np.linspace(0, 1, len(fastest))
    sign = rng.choice([-1, 1])
    shifts = (
        0 * along,
        sign * rng.uniform(100, 400) * (along - 0.5),
        sign * rng.uniform(300, 800) * expit((along - rng.uniform(0.3, 0.7)) / 0.025),
    )
    shift = shifts[rng.choice(3, p=MODULATED[label])]
    frequency = np.clip(rng.uniform(0.4, 0.9) * fastest + shift, 2 * WALL, 0.45 * RATE)
    phase = 2 * np.pi * (np.cumsum(frequency) / RATE + rng.uniform())
    signal: Signal = _envelope(len(along)) * np.exp(1j * phase)
    return signal


def artefact(length: int, rng: np.random.Generator) -> Signal:
    """A thud of probe or patient: a burst of noise on both sides of the spectrum, within 3 dB of each other.

    Args:
        length: The length, in samples.
        rng: The random generator that draws it.

    Returns:
        I + jQ with a Hann envelope, shape (length,).
    """
    frequencies = np.fft.fftfreq(length, 1 / RATE)
    gain = np.where(frequencies > 0, np.exp(-((frequencies / rng.uniform(200, 1200)) ** 2) / 2), 0)
    right = np.fft.ifft(gain * np.fft.fft(rng.standard_normal(length)))
    left = right.conj() * np.exp(2j * np.pi * rng.uniform()) * 10 ** (rng.uniform(-3, 3) / 20)
    signal: Signal = _envelope(length) * (right + left)
    return signal


def _envelope(length: int) -> Real:
    """Hann's, without its two zeros."""
    return np.hanning(length + 2)[1:-1]
