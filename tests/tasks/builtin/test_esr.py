"""The esr tasks: splits, labels, scaling, and a short training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tasks.recordings import edit, lines, write
from ttq_plugin.tasks import ESR, TASKS, get_task
from ttq_plugin.tasks.builtin import esr as module
from ttq_plugin.tasks.builtin.esr import scaled
from ttq_plugin.tasks.builtin.spectrogram import spectrogram
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.readers.esr_csv import read
from ttq_plugin.tasks.scoring.scores import score as scored

NAME = "Epileptic Seizure Recognition.csv.gz"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """50 recordings of three chunks."""
    return write(tmp_path_factory.mktemp("eeg") / "eeg.csv", lines())


def splits(data):
    return data.train, data.validation, data.test


def origin(data, path):
    """For each split, the recording of each of its rows."""
    chunks = read(path)
    rows = scaled(chunks.signals).astype(np.float32)
    known = {row.tobytes(): recording for row, recording in zip(rows, chunks.recordings.tolist(), strict=True)}
    return [[known[x.numpy().tobytes()] for x in split.x] for split in splits(data)]


def test_every_name_has_its_task():
    assert (
        list(module.TASKS) == list(ESR) == [name for name in TASKS if name.startswith("esr-") and "hybrid" not in name]
    )
    assert len(ESR) == 8 and {"esr-2dcnn", "esr-cnn-transformer-rows-5"} <= set(ESR)
    for name in ESR:
        task = get_task(name)
        assert task.name == name and task.balanced
        classes = 5 if name.endswith("-5") else 2
        shape = (1, 32, 37) if "2dcnn" in name else (1, 178)
        assert task.model().eval()(torch.zeros(2, *shape)).shape == (2, classes)


def test_the_real_file(shared, monkeypatch):
    path = shared / "data" / NAME
    chunks = read(path)
    assert chunks.signals.shape == (11_500, 178)
    assert np.bincount(chunks.labels).tolist() == [0, 2300, 2300, 2300, 2300, 2300]
    _, each = np.unique(chunks.recordings, return_counts=True)
    assert len(each) == 500 and set(each) == {23}

    monkeypatch.setenv("TTQ_DATA_DIR", str(path.parent))
    data = get_task("esr-cnn-transformer").load(None, 0)
    assert [s.x.shape for s in splits(data)] == [(8050, 1, 178), (1725, 1, 178), (1725, 1, 178)]
    assert [s.y.bincount().tolist() for s in splits(data)] == [[6440, 1610], [1380, 345], [1380, 345]]
    train, validation, test = (set(part) for part in origin(data, path))
    assert not train & validation and not train & test and not validation & test
    assert [len(part) for part in (train, validation, test)] == [350, 75, 75]


def test_the_papers_split_of_the_real_file(shared):
    path = shared / "data" / NAME
    data = get_task("esr-cnn-transformer-rows-5").load(path, 0)
    assert [s.y.bincount().tolist() for s in splits(data)] == [5 * [1840], 5 * [230], 5 * [230]]
    train, _, test = (set(part) for part in origin(data, path))
    assert len(train & test) > 400  # what the other split is for
    pictures = get_task("esr-2dcnn-rows-5").load(path, 0)
    assert torch.equal(pictures.test.y, data.test.y) and pictures.test.x.shape == (1150, 1, 32, 37)


@pytest.mark.parametrize("name", ["esr-cnn-transformer", "esr-cnn-transformer-5"])
def test_whole_recordings_of_every_class_in_every_split(small, name):
    data = get_task(name).load(small, 0)
    parts = [set(part) for part in origin(data, small)]
    assert sum(map(len, parts)) == 50 == len(set.union(*parts))
    assert [len(part) for part in parts] == [34, 8, 8]
    for part in parts:
        assert {recording % 5 for recording in part} == set(range(5))


def test_splits_are_seeded_and_the_same_for_both_models(small):
    task = get_task("esr-cnn-transformer")
    data = task.load(small, 0)
    assert task.load(small, 0).fingerprint() == data.fingerprint() != task.load(small, 1).fingerprint()
    pictures = get_task("esr-2dcnn").load(small, 0)
    for signal, picture in zip(splits(data), splits(pictures), strict=True):
        assert torch.equal(signal.y, picture.y)
        view = spectrogram(signal.x[:, 0].double().numpy())
        np.testing.assert_allclose(picture.x[:, 0].numpy(), view, atol=1e-2)


@pytest.mark.parametrize("split", ["", "-rows"])
def test_two_classes_are_seizure_against_the_rest(small, split):
    two = get_task(f"esr-cnn-transformer{split}").load(small, 0)
    five = get_task(f"esr-cnn-transformer{split}-5").load(small, 0)
    for a, b in zip(splits(two), splits(five), strict=True):
        assert torch.equal(a.x, b.x) and a.y.dtype == torch.int64
        assert torch.equal(a.y, (b.y == 0).long()) and set(b.y.tolist()) == set(range(5))


def test_signals_are_scaled_one_by_one():
    signals = np.array([[-3.0, 1.0, 5.0], [7.0, 7.0, 7.0], [0.0, 1e-3, 0.0]])
    assert scaled(signals).tolist() == [[0, 0.5, 1], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("model", ["2dcnn", "cnn-transformer"])
def test_a_constant_signal_stays_finite(tmp_path, model):
    rows = lines()
    for column in range(1, 179):
        rows = edit(rows, 5, column, "12")
    data = get_task(f"esr-{model}").load(write(tmp_path / "eeg.csv", rows), 0)
    assert all(bool(torch.isfinite(split.x).all()) for split in splits(data))


@pytest.mark.parametrize(
    "name, change",
    [("esr-cnn-transformer", {"epochs": 2, "lr": 2e-3, "batch_size": 16}), ("esr-2dcnn", {"epochs": 1})],
)
def test_unmistakable_seizures_are_learnt(tmp_path, name, change):
    task = get_task(name)
    data = task.load(write(tmp_path / "eeg.csv", lines(each=20, chunks=8)), 0)
    quick = replace(task, recipe=replace(task.recipe, **change))
    trained = full_precision(quick, data, seed=0, cache=tmp_path)
    assert (
        trained.score == scored(trained.model, data.validation).value > 0.9
        and scored(trained.model, data.test).value > 0.9
    )
