"""The hits tasks: where their data are from, what the models see, and a short training."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.io import wavfile

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.builtin import hits
from ttq_plugin.tasks.builtin.dopplersim import RATE, simulate
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.readers.hits_recordings import Recordings
from ttq_plugin.tasks.scoring.scores import score as scored
from ttq_plugin.tasks.task import Data, Split

CNN, TRANSFORMER = hits.TASKS.values()


@pytest.fixture(scope="module")
def made():
    return simulate((60, 60, 60), subjects=15, seed=0)


@pytest.fixture
def few(made, monkeypatch):
    """Fewer simulated signals for whoever loads without a source."""
    monkeypatch.setattr(hits, "simulated", lambda: Recordings(made.signals, made.labels, made.subjects))
    return made


def splits(data):
    return data.train, data.validation, data.test


def quietly(task, source=None, seed=0):
    with warnings.catch_warnings(action="ignore"):
        return task.load(source, seed)


def test_the_models_have_the_papers_parameters():
    assert [task.name for task in (CNN, TRANSFORMER)] == ["hits-2dcnn", "hits-cnn-transformer"] == list(hits.TASKS)
    assert sum(p.numel() for p in CNN.model().parameters()) == 1_681_923
    assert sum(p.numel() for p in TRANSFORMER.model().parameters()) == 766_271
    assert CNN.model().eval()(torch.zeros(2, 3, 224, 96)).shape == (2, 3)
    assert TRANSFORMER.model().eval()(torch.zeros(2, 2, 1400)).shape == (2, 3)


@pytest.mark.parametrize("task", hits.TASKS.values(), ids=list(hits.TASKS))
def test_simulated_signals_are_called_so(few, task):
    assert "SIMULATED unless --data names recordings" in task.description and "\n" not in task.description
    with pytest.warns(UserWarning, match="no --data was given: the Doppler signals are SIMULATED"):
        task.load(None, 0)


def test_the_default_simulation():
    recordings = hits.simulated()
    assert recordings.signals.shape == (1200, 2, 1400)
    assert np.bincount(recordings.labels).tolist() == [400, 400, 400] and len(set(recordings.subjects)) == 40


def test_splits_by_subject_seeded_and_the_same_for_both_models(few):
    rows = hits.scaled(torch.from_numpy(few.signals)).numpy()
    known = {row.tobytes(): subject for row, subject in zip(rows, few.subjects.tolist(), strict=True)}
    data = quietly(TRANSFORMER)
    people = [{known[x.numpy().tobytes()] for x in split.x} for split in splits(data)]
    assert sum(map(len, people)) == 15 == len(set.union(*people))
    assert all(set(split.y.tolist()) == {0, 1, 2} for split in splits(data))
    assert quietly(TRANSFORMER).fingerprint() == data.fingerprint() != quietly(TRANSFORMER, seed=1).fingerprint()
    for signal, picture in zip(splits(data), splits(quietly(CNN)), strict=True):
        assert torch.equal(signal.y, picture.y) and signal.y.dtype == torch.int64
        assert picture.x.shape == (len(signal), 3, 224, 96) and signal.x.dtype == picture.x.dtype == torch.float32
        torch.testing.assert_close(hits.picture(signal.x), picture.x, rtol=0, atol=1e-6)


def test_a_users_recordings_from_either_form(made, tmp_path):
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["signals"], file["labels"], file["subjects"] = made.signals, made.labels, made.subjects
        file.attrs["rate"] = RATE
    folder = tmp_path / "mine"
    folder.mkdir()
    for row, signal in enumerate(made.signals):
        wavfile.write(folder / f"{row}.wav", RATE, signal.T)
    columns = zip(made.labels, made.subjects, strict=True)
    lines = [f"{row}.wav,{label},{subject:03}" for row, (label, subject) in enumerate(columns)]
    (folder / "labels.csv").write_text("\n".join(["file,label,subject", *lines]))
    with warnings.catch_warnings(action="error"):  # nothing here is simulated
        first, second = TRANSFORMER.load(tmp_path / "mine.h5", 0), TRANSFORMER.load(folder, 0)
    for a, b in zip(splits(first), splits(second), strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y)
    with pytest.raises(InputError, match="the recordings .*none.h5 do not exist"):
        TRANSFORMER.load(tmp_path / "none.h5", 0)
    (folder / "labels.csv").write_text("\n".join(["file,label,subject", *lines[:40]]).replace(",2,", ",0,"))
    with pytest.raises(InputError, match=rf"{folder}: class 2 is found in 0 subjects, at least 3 are needed"):
        TRANSFORMER.load(folder, 0)


def test_signals_are_scaled_by_their_largest_magnitude():
    signals = torch.zeros(3, 2, 4)
    signals[0, 0, 1], signals[0, 1, 1], signals[0, 0, 3] = 3, -4, 2
    signals[1] = 2e38
    found = hits.scaled(signals)
    torch.testing.assert_close(found[0], signals[0] / 5)
    assert torch.isfinite(found).all() and torch.hypot(found[1, 0], found[1, 1]).max() == pytest.approx(1)
    assert not found[2].any()


def naive(signal):
    """Window by window, frequency by frequency, in double precision; resized as the picture is."""
    n = np.arange(128)
    window = 0.42 - 0.5 * np.cos(2 * np.pi * n / 128) + 0.08 * np.cos(4 * np.pi * n / 128)
    kernel = np.exp(-2j * np.pi * np.outer(np.arange(-64, 64), n) / 128) * window
    whole = signal[0] + 1j * signal[1]
    power = np.array([np.abs(kernel @ whole[start : start + 128]) ** 2 for start in range(0, 1400 - 127, 8)]).T
    assert power.shape == (128, 160)
    decibels = np.maximum(10 * np.log10(power / power.max()), -60)
    image = torch.from_numpy(1 + decibels / 60)[None, None]
    return F.interpolate(image, (224, 96), mode="bilinear", antialias=True)[0, 0].numpy()


def test_the_picture_against_a_transform_written_out(made):
    found = hits.picture(torch.from_numpy(made.signals[:4])).numpy()
    for picture, signal in zip(found, made.signals[:4].astype(np.float64), strict=True):
        np.testing.assert_allclose(picture[0], naive(signal), atol=1e-3)
        assert np.array_equal(picture[0], picture[1]) and np.array_equal(picture[0], picture[2])


def test_flow_towards_the_probe_is_in_the_lower_rows():
    tone = np.exp(2j * np.pi * 20 / 128 * np.arange(1400))
    signals = torch.tensor(np.array([[tone.real, tone.imag], [tone.real, -tone.imag]]), dtype=torch.float32)
    towards, away = hits.picture(signals)[:, 0].mean(dim=2)
    assert abs(int(towards.argmax()) - (64 + 20.5) * 224 / 128) <= 1
    assert abs(int(away.argmax()) - (64 - 20 + 0.5) * 224 / 128) <= 1


def test_silence_is_black():
    assert not hits.picture(torch.zeros(2, 2, 1400)).any()


def test_the_pictures_tell_artefacts_from_emboli(made):
    pictures = hits.picture(torch.from_numpy(made.signals))[:, 0]
    away = pictures[:, :100].mean(dim=1).amax(dim=1)  # the brightest moment of flow in the other direction
    artefact = torch.from_numpy(made.labels == 0)
    pairs = away[artefact].unsqueeze(1) > away[~artefact]
    assert pairs.float().mean() > 0.95


@pytest.mark.parametrize("task", hits.TASKS.values(), ids=list(hits.TASKS))
def test_one_epoch_trains_the_cached_model(few, task, tmp_path):
    data = quietly(task)
    few_rows = Data(*(Split(split.x[:4], split.y[:4]) for split in splits(data)))
    losses = []
    quick = replace(task, recipe=replace(task.recipe, epochs=1, batch_size=4))
    trained = full_precision(quick, few_rows, seed=0, cache=tmp_path, on_epoch=lambda _, loss: losses.append(loss))
    assert trained.trained and trained.score == scored(trained.model, few_rows.validation).value
    assert len(losses) == 1
    assert not full_precision(quick, few_rows, seed=0, cache=tmp_path).trained


def test_what_is_heavy_or_optional_is_imported_on_use():
    code = (
        "import sys, ttq_plugin.tasks.builtin.hits, ttq_plugin.tasks.builtin.ecg\n"
        "print([name for name in ('h5py', 'wfdb', 'scipy', 'sklearn', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout.strip() == "[]"
