"""`speech-dscnn`: WAV files by speaker, log-mel by hand, one speaker left out, and each thing that can be wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from tests.tasks.walk import walk, walk_on
from ttq_plugin.errors import InputError
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.builtin.speech import BANDS, DSCNN, FRAMES, load, log_mel, mel_bands, spoken_otherwise
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.readers.speech_wav import read_digits

SPEAKERS = ("ann", "bob", "cid", "dot")


def tone(digit, speaker, take):
    """A digit is a tone of its own height, a speaker's a little higher or lower, from 16-bit samples."""
    rng = np.random.default_rng([digit, SPEAKERS.index(speaker), take])
    time = np.arange(3000 + 100 * take) / 8000
    height = 300 * 1.3**digit * (1 + 0.02 * SPEAKERS.index(speaker))
    return (8000 * np.sin(2 * np.pi * height * time) + 200 * rng.normal(size=len(time))).astype(np.int16)


def write(folder, speakers=SPEAKERS, takes=2):
    for speaker in speakers:
        for digit in range(10):
            for take in range(takes):
                wavfile.write(folder / f"{digit}_{speaker}_{take}.wav", 8000, tone(digit, speaker, take))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def mine(tmp_path):
    return write(tmp_path, SPEAKERS[:3], 1)


def parts(data):
    return data.train, data.validation, data.test


@pytest.mark.parametrize("seed", range(6))
def test_each_seed_leaves_another_speaker_out(folder, seed):
    data = load(folder, seed)
    train, validation, test = (set(part.group_ids.tolist()) for part in parts(data))
    assert test == {SPEAKERS[seed % 4]} and validation == {SPEAKERS[(seed + 1) % 4]}
    assert train == set(SPEAKERS) - test - validation
    for part in parts(data):
        assert part.x.shape[1:] == (1, 49, 40) == get_task("speech-dscnn").shape and part.x.dtype == torch.float32
        assert part.y.bincount().tolist() == [len(part) // 10] * 10


def centred(x):
    return x - x.mean(2, keepdim=True)


def test_samples_are_of_the_speaker_that_their_group_names(folder):
    """Computed anew from the files of one speaker, whatever split it is in; copies follow the recordings themselves."""
    for speaker in SPEAKERS:
        own = torch.from_numpy(np.stack([
            np.pad(tone(digit, speaker, take) / np.float32(32768), ((5000 - 100 * take) // 2,)) for digit in range(10)
            for take in range(2)
        ]).astype(np.float32))  # fmt: skip
        expected = centred(log_mel(own.numpy()))
        for seed in (0, 1):
            data, spoken = load(folder, seed), read_digits(folder, 8000)
            heard = [spoken.signals[spoken.speakers == name] for name in set(data.train.group_ids.tolist())]
            scale = centred(log_mel(np.concatenate(heard))).std((0, 2), keepdim=True)
            (split,) = [part for part in parts(data) if speaker in part.group_ids]
            found = split.x[torch.from_numpy(split.group_ids == speaker)][:20]
            torch.testing.assert_close(found, expected / scale, atol=1e-3, rtol=0)


def test_training_speakers_alone_give_the_scale(folder):
    data = load(folder, 0)
    own = data.train.x[: len(data.train) // 4]
    assert (own.std((0, 2)) - 1).abs().max() < 1e-3 and (data.test.x.std((0, 2)) - 1).abs().max() > 1e-2
    for part in parts(data):
        assert part.x.mean(2).abs().max() < 1e-3  # of each band in each recording


def test_copies_are_the_training_recordings_said_otherwise(folder):
    data = load(folder, 0)
    own, *copies = data.train.x.chunk(4)
    for copy, labels, groups in zip(
        copies, data.train.y.chunk(4)[1:], np.split(data.train.group_ids, 4)[1:], strict=True
    ):
        assert torch.equal(labels, data.train.y.chunk(4)[0]) and (groups == np.split(data.train.group_ids, 4)[0]).all()
        bands = (copy == 0).all(2).sum(-1)  # those that a stripe covers; two stripes may share bands
        assert ((bands >= 4) & (bands <= 8)).all() and not (own == 0).all(2).any()
    assert not any(torch.equal(copy, copies[0]) for copy in copies[1:])
    for part in (data.validation, data.test):
        assert len(part) == 20 and not (part.x == 0).all(2).any()


def test_a_copy_is_faster_or_slower_and_moved():
    """A tone of 400 Hz becomes one of 320 to 500 Hz, and a click moves by at most a tenth of a second."""
    time = np.arange(8000) / 8000
    tones = np.tile(np.sin(2 * np.pi * 400 * time), (20, 1)).astype(np.float32)
    made = spoken_otherwise(tones, np.random.default_rng(0))
    heights = np.abs(np.fft.rfft(made * np.hanning(8000))).argmax(1)
    assert made.dtype == np.float32 and heights.min() >= 318 and heights.max() <= 502 and heights.std() > 20
    click = np.zeros((20, 8000), np.float32)
    click[:, 3999:4001] = 1
    moved = np.array([np.flatnonzero(row).mean() for row in spoken_otherwise(click, np.random.default_rng(1))]) - 3999.5
    assert np.abs(moved).max() <= 801 and moved.std() > 100
    assert np.array_equal(made, spoken_otherwise(tones, np.random.default_rng(0)))


def test_equal_seeds_give_equal_data(folder):
    assert load(folder, 0).fingerprint() == load(folder, 0).fingerprint() != load(folder, 1).fingerprint()


def test_bands_are_triangles_between_neighbours_even_in_mel():
    bands = mel_bands()
    assert bands.shape == (BANDS, 161) and bands.max() <= 1 and (bands > 0).any(axis=1).all()
    mel = 2595 * np.log10(1 + np.fft.rfftfreq(320, 1 / 8000) / 700)
    low, high = (2595 * np.log10(1 + f / 700) for f in (80, 4000))
    step = (high - low) / 41
    for band in range(BANDS):
        inside = np.abs(mel - (low + (band + 1) * step)) < step
        assert np.array_equal(bands[band] > 1e-9, inside & (np.abs(bands[band]) > 1e-9))
        assert not bands[band][~inside].any()
    between = (mel > low + step) & (mel < high - step)
    np.testing.assert_allclose(bands.sum(axis=0)[between], 1, atol=1e-9)  # each falls as the next one rises


def test_log_mel_of_a_tone_and_of_silence():
    """A full-scale sine on a line of the Fourier transform: Hann's window gives a quarter of the power there."""
    time = np.arange(8000) / 8000
    found = log_mel(np.stack([np.sin(2 * np.pi * 1000 * time), np.zeros(8000)]).astype(np.float32))
    assert found.shape == (2, 1, FRAMES, BANDS) and torch.equal(found[1], torch.full((1, 49, 40), float(np.log(1e-6))))
    lines = np.array([1 / 16, 1 / 4, 1 / 16])  # at 975, 1000 and 1025 hertz
    expected = np.log(mel_bands()[:, 39:42] @ lines + 1e-6)
    np.testing.assert_allclose(found[0, 0].numpy(), np.tile(expected, (49, 1)), atol=1e-3)


def test_short_recordings_are_padded_and_long_ones_cut_around_their_middle(tmp_path):
    write(tmp_path, SPEAKERS[:1], 1)
    ramp = np.arange(9001, dtype=np.int16)
    wavfile.write(tmp_path / "3_ann_0.wav", 8000, ramp)
    spoken = read_digits(tmp_path, 8000)
    assert spoken.labels.tolist() == list(range(10)) and set(spoken.speakers) == {"ann"}
    np.testing.assert_array_equal(spoken.signals[3], ramp[500:8500] / 32768)
    np.testing.assert_array_equal(spoken.signals[0, 2500:5500], tone(0, "ann", 0) / np.float32(32768))
    assert not spoken.signals[0, :2500].any() and not spoken.signals[0, 5500:].any()


def test_eight_bits_and_floats_have_the_same_loudness(tmp_path):
    write(tmp_path, SPEAKERS[:1], 1)
    wave = np.sin(np.arange(8000) / 5)
    wavfile.write(tmp_path / "1_ann_0.wav", 8000, np.rint(128 + 127 * wave).astype(np.uint8))
    wavfile.write(tmp_path / "2_ann_0.wav", 8000, wave.astype(np.float32))
    signals = read_digits(tmp_path, 8000).signals
    np.testing.assert_allclose(signals[1], wave * 127 / 128, atol=0.005)
    np.testing.assert_allclose(signals[2], wave, atol=1e-6)


def test_the_networks_parameters():
    model = DSCNN()
    assert sum(p.numel() for p in model.parameters()) == 25_610
    assert model.conv(torch.zeros(1, 1, FRAMES, BANDS)).shape == (1, 64, 25, 10)


def test_unmistakable_tones_are_learnt(folder, tmp_path):
    task = get_task("speech-dscnn")
    quick = replace(task, recipe=replace(task.recipe, epochs=6, batch_size=20))
    assert full_precision(quick, load(folder, 0), seed=0, cache=tmp_path).score > 0.6


def refused(source, message):
    with pytest.raises(InputError, match=message) as error:
        load(source, 0)
    assert "\n" not in str(error.value)


def test_without_recordings(tmp_path):
    refused(None, r"a folder of WAV files \{digit\}_\{speaker\}_\{take\}\.wav is needed.*; none was given with --data")
    refused(tmp_path / "none", f"{tmp_path / 'none'} is none: ttq_plugin ships no data")
    refused(tmp_path, f"{tmp_path} holds no WAV files;")


def test_speakers_with_missing_digits_or_too_few_speakers(mine):
    for digit in (4, 7):
        (mine / f"{digit}_bob_0.wav").unlink()
    refused(mine, "the speaker bob has no recording of 4, 7; record them, or take the speaker out")
    for path in mine.glob("*_bob_*"):
        path.unlink()
    refused(mine, r"has 2 speakers \(ann, cid\), at least 3 are needed, one for each split")


SOUND = np.arange(4000, dtype=np.int16)


@pytest.mark.parametrize(
    "name, rate, samples, message",
    [
        ("5_bob_0.wav", 16_000, SOUND, r"5_bob_0\.wav has 16000 samples a second, not 8000;"),
        ("5_bob_0.wav", 8000, SOUND.reshape(2000, 2), r"5_bob_0\.wav has 2 channels, not 1;"),
        ("5_bob_0.wav", 8000, SOUND[:399], r"5_bob_0\.wav has 399 samples, fewer than 400;"),
        ("5_bob_0.wav", 8000, 0 * SOUND, r"5_bob_0\.wav is silent: all its samples are 0;"),
        ("5_bob_0.wav", 8000, np.where(SOUND == 7, np.nan, 0.1).astype(np.float32), "sample 7 is NaN or infinite;"),
        ("5_bob_00.wav", 8000, SOUND, r"5_bob_00\.wav is the same take as 5_bob_0\.wav;|5_bob_0\.wav is the same take"),
        ("five_bob_0.wav", 8000, SOUND, r"five_bob_0\.wav must be named by digit, speaker and take;"),
        ("12_bob_0.wav", 8000, SOUND, r"12_bob_0\.wav must be named by digit, speaker and take;"),
        ("5_bob.wav", 8000, SOUND, r"5_bob\.wav must be named by digit, speaker and take;"),
    ],
)
def test_files_of_another_form(mine, name, rate, samples, message):
    wavfile.write(mine / name, rate, samples)
    refused(mine, message)


@pytest.mark.parametrize("kept", [0, 20, 44, 1000])
def test_truncated_files(mine, kept):
    path = mine / "5_bob_0.wav"
    path.write_bytes(path.read_bytes()[:kept])
    refused(mine, r"5_bob_0\.wav is damaged or not a WAV file")


def test_every_command_takes_it(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    walk("speech-dscnn", folder, tmp_path)


@pytest.mark.long
def test_so_do_search_report_and_fit(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    walk_on("speech-dscnn", folder, tmp_path)
