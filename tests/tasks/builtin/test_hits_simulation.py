"""Simulated Doppler signals: what was asked of them, measured."""

from __future__ import annotations

import numpy as np
import pytest

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.builtin.dopplersim import (
    ARTEFACT,
    DURATIONS,
    GASEOUS,
    MODULATED,
    RATE,
    RATIOS,
    SAMPLES,
    SOLID,
    Flow,
    embolus,
    simulate,
    speckle,
)

COUNTS = (50, 60, 70)


@pytest.fixture(scope="module")
def made():
    return simulate(COUNTS, subjects=12, seed=3)


def power(signals):
    return np.mean(np.abs(signals) ** 2, axis=-1)


def decibels(ratio):
    return 10 * np.log10(ratio)


def right(signals):
    """Share of the energy at positive frequencies."""
    energy = np.abs(np.fft.fft(signals, axis=-1)) ** 2
    return energy[..., np.fft.fftfreq(signals.shape[-1]) > 0].sum(axis=-1) / energy.sum(axis=-1)


def inside(made, signals):
    """Each signal while its transient lasts."""
    return [row[first:last] for row, (first, last) in zip(signals, made.spans, strict=True)]


def test_as_many_of_each_class_as_asked(made):
    assert np.bincount(made.labels).tolist() == list(COUNTS)
    assert made.signals.shape == (180, 2, SAMPLES) and made.signals.dtype == np.float32
    assert set(made.subjects) == set(range(12))
    assert np.count_nonzero(np.diff(made.labels)) > 60  # shuffled
    whole = made.blood + made.transients
    np.testing.assert_allclose(made.signals[:, 0] + 1j * made.signals[:, 1], whole, rtol=1e-5, atol=1e-5)


def test_the_ratios_are_those_asked_for(made):
    pairs = zip(inside(made, made.transients), inside(made, made.blood), strict=True)
    found = np.array([decibels(power(transient) / power(blood)) for transient, blood in pairs])
    np.testing.assert_allclose(found, made.ratios, atol=1e-9)
    for label, (least, largest) in RATIOS.items():
        drawn = made.ratios[made.labels == label]
        assert 3 <= least <= drawn.min() < drawn.max() <= largest


def test_they_are_heard_in_the_signals_handed_out():
    asked = {ARTEFACT: (3.0, 3.0), GASEOUS: (15.0, 15.0), SOLID: (8.0, 8.0)}
    made = simulate((60, 60, 60), subjects=12, seed=1, ratios=asked)
    whole = made.signals[:, 0] + 1j * made.signals[:, 1]
    pairs = zip(inside(made, whole), inside(made, made.blood), strict=True)
    found = np.array([decibels(power(mixed) / power(blood)) for mixed, blood in pairs])
    for label, (ratio, _) in asked.items():
        assert found[made.labels == label].mean() == pytest.approx(decibels(1 + 10 ** (ratio / 10)), abs=0.3)


def test_transients_are_shorter_than_300_ms_and_nothing_outside(made):
    for row, (first, last), label in zip(made.transients, made.spans, made.labels, strict=True):
        assert 0 <= first < last <= SAMPLES
        least, largest = DURATIONS[label]
        assert least - 1 / RATE <= (last - first) / RATE <= largest + 1 / RATE < 0.3
        assert np.all(row[first:last] != 0) and not row[:first].any() and not row[last:].any()


def test_emboli_are_on_one_side_of_the_spectrum_and_artefacts_on_both(made):
    share = right(made.transients)
    assert share[made.labels != ARTEFACT].min() > 0.999
    both = share[made.labels == ARTEFACT]
    third = 1 / (1 + 10**0.3)  # one side 3 dB below the other
    assert third - 0.02 < both.min() < 0.45 and 0.55 < both.max() < 1 - third + 0.02
    assert right(made.blood).min() > 0.98


def test_the_sides_tell_artefacts_in_the_signals_handed_out(made):
    whole = made.signals[:, 0] + 1j * made.signals[:, 1]
    share = np.array([right(part) for part in inside(made, whole)])
    assert share[made.labels != ARTEFACT].min() > 0.95 > 0.85 > share[made.labels == ARTEFACT].max()


def test_equal_seeds_give_equal_signals(made):
    again, other = simulate(COUNTS, subjects=12, seed=3), simulate(COUNTS, subjects=12, seed=4)
    for name in ("blood", "transients", "labels", "subjects", "ratios", "spans"):
        assert np.array_equal(getattr(made, name), getattr(again, name))
    assert not np.array_equal(made.signals, other.signals)


def swings(label, count=400):
    """Of many emboli in steady blood: how far the frequency moves, and how far within a tenth of the duration (Hz)."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        phase = np.unwrap(np.angle(embolus(label, np.full(500, 1600.0), rng)))
        frequency = np.diff(phase) * RATE / (2 * np.pi)
        found.append((np.ptp(frequency), np.max(np.abs(frequency[50:] - frequency[:-50]))))
    return np.array(found).T


@pytest.mark.parametrize("label", [GASEOUS, SOLID])
def test_as_many_emboli_are_chirps_as_were_observed(label):
    whole, within = swings(label)
    steady = whole < 1
    rapid = ~steady & (within > 0.5 * whole)
    for found, share in ((steady, MODULATED[label][0]), (rapid, MODULATED[label][2])):
        assert found.mean() == pytest.approx(share, abs=4 * np.sqrt(0.25 / len(found)))
    assert whole[~steady].min() > 90
    assert rapid.any() == (label == GASEOUS)


def test_an_embolus_moves_with_the_blood():
    fastest = np.linspace(1800, 700, 700)
    rng = np.random.default_rng(1)
    steady = 0
    for _ in range(20):
        frequency = np.diff(np.unwrap(np.angle(embolus(SOLID, fastest, rng)))) * RATE / (2 * np.pi)
        share = frequency / fastest[1:]
        steady += np.ptp(share) < 1e-6 and 0.4 <= share[0] <= 0.9
    assert 10 <= steady <= 19  # those without modulation of their own


def test_blood_is_speckle_up_to_its_largest_velocity():
    fastest = np.full((300, SAMPLES), 1000.0)
    blood = speckle(fastest, np.full(300, -20.0), np.random.default_rng(0))
    energy = np.mean(np.abs(np.fft.fft(blood)) ** 2, axis=0) / SAMPLES**2
    frequencies = np.fft.fftfreq(SAMPLES, 1 / RATE)
    assert energy[(frequencies > 50) & (frequencies < 1100)].sum() == pytest.approx(1, abs=0.02)
    assert energy[frequencies < -100].sum() == pytest.approx(0.01 * 2400 / RATE, rel=0.1)  # the receiver's noise
    middle = energy[(frequencies > 300) & (frequencies < 850)]
    assert middle.std() / middle.mean() < 0.15  # flat
    spread = np.mean(np.abs(blood) ** 4) / np.mean(np.abs(blood) ** 2) ** 2
    assert spread == pytest.approx(2, abs=0.05)  # circular Gaussian


def test_the_blood_beats():
    flow = Flow(systole=1500, diastole=600, beat=0.5, noise=-25)
    envelope = np.concatenate([flow.envelope(phase) for phase in (0.0, SAMPLES / RATE / 0.5)])
    assert envelope.max() == pytest.approx(1500, abs=1) and envelope[0] == pytest.approx(600)
    assert np.argmax(envelope) == round(0.15 * 0.5 * RATE)
    np.testing.assert_allclose(envelope[2500:], envelope[: len(envelope) - 2500], atol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"counts": (1, 2)}, r"`counts` must be three numbers .* got \(1, 2\) and 40"),
        ({"counts": (1, -1, 0)}, r"got \(1, -1, 0\) and 40"),
        ({"counts": (0, 0, 0)}, "not all 0"),
        ({"subjects": 0}, r"`subjects` at least 1; got \(400, 400, 400\) and 0"),
        ({"ratios": RATIOS | {SOLID: (2.9, 9.0)}}, "class 2 must run from at least 3 dB upwards, got 2.9 to 9.0"),
        ({"ratios": RATIOS | {GASEOUS: (9.0, 6.0)}}, "`ratios` of class 1"),
        ({"ratios": RATIOS | {ARTEFACT: (3.0, float("inf"))}}, "`ratios` of class 0"),
        ({"ratios": RATIOS | {ARTEFACT: (float("nan"), 4.0)}}, "`ratios` of class 0"),
    ],
)
def test_what_cannot_be_simulated(arguments, message):
    with pytest.raises(InputError, match=message):
        simulate(**arguments)
