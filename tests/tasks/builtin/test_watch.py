"""`watch-cnn`: seglearn's recordings in windows, split by person, and a training that learns them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ttq_plugin.tasks.readers.watch_file as watch_file
from ttq_plugin.errors import InputError
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.builtin.watch import STEP, WINDOW, WatchCNN, load, windows
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.readers.watch_file import Movements, find, read


@pytest.fixture(scope="module")
def movements():
    return read(find(None), WINDOW)


@pytest.fixture(scope="module")
def data():
    return load(None, 0)


def numpys():
    """The file as numpy reads it, with all that a pickle may do."""
    return np.load(find(None), allow_pickle=True).item()


def write(path: Path, **changes) -> Path:
    """Thirty-five short recordings of five people in the form of seglearn's file, with some entries changed."""
    rng = np.random.default_rng(0)
    made = {
        "X": [rng.normal(size=(120, 6)) for _ in range(35)],
        "y": np.arange(35) % 7,
        "subject": np.arange(35) // 7 + 1,
    }
    made |= changes
    array = np.empty((), dtype=object)
    array[()] = {name: value for name, value in made.items() if value is not None}
    np.save(path, array, allow_pickle=True)
    return path


def test_the_packages_recordings_are_read_as_numpy_reads_them(movements):
    theirs = numpys()
    assert len(movements.series) == 140 and movements.labels.dtype == movements.people.dtype == np.int64
    for ours, values in zip(movements.series, theirs["X"], strict=True):
        assert ours.dtype == np.float32 and np.array_equal(ours, values.astype(np.float32))
    assert np.array_equal(movements.labels, theirs["y"]) and np.array_equal(movements.people, theirs["subject"])
    assert tuple(theirs["y_labels"]) == watch_file.EXERCISES
    assert "seglearn" not in sys.modules


def test_windows_by_hand():
    series = np.arange(6 * 201, dtype=np.float32).reshape(201, 6)
    x, y, people = windows(Movements((series, series[:100]), np.array([3, 5]), np.array([9, 2])))
    assert x.shape == (4, 6, 100) and y.tolist() == [3, 3, 3, 5] and people.tolist() == [9, 9, 9, 2]
    for k, start in enumerate((0, 50, 100)):
        assert np.array_equal(x[k].numpy(), series[start : start + 100].T)
    assert np.array_equal(x[3].numpy(), series[:100].T)


def test_shapes_and_counts(movements, data):
    parts = (data.train, data.validation, data.test)
    assert sum(map(len, parts)) == sum((len(s) - WINDOW) // STEP + 1 for s in movements.series)
    for part in parts:
        assert part.x.shape[1:] == (6, 100) == get_task("watch-cnn").shape
        assert part.x.dtype == torch.float32 and part.y.dtype == torch.int64
    assert not data.simulated


@pytest.mark.parametrize("seed", range(4))
def test_six_people_train_two_validate_two_test(movements, seed):
    data = load(None, seed)
    parts = (data.train, data.validation, data.test)
    train, validation, test = (set(part.groups.tolist()) for part in parts)
    assert (len(train), len(validation), len(test)) == (6, 2, 2)
    assert train | validation | test == set(range(1, 11))
    for part in parts:
        assert part.y.unique().tolist() == list(range(7))


def test_groups_are_whose_windows_they_are(movements, data):
    """A person's first window is found again by correlation: scale and shift of an axis do not change that."""
    x, _, people = windows(movements)
    for part in (data.train, data.validation, data.test):
        for person in part.groups.unique().tolist():
            first = x[people == person][0, 0].numpy()
            alike = [np.corrcoef(first, axis)[0, 1] > 1 - 1e-6 for axis in part.x[:, 0].numpy()]
            assert set(part.groups[torch.tensor(alike)].tolist()) == {person}


def test_training_windows_alone_give_the_scale(data):
    assert data.train.x.mean((0, 2)).abs().max() < 1e-4
    assert (data.train.x.std((0, 2)) - 1).abs().max() < 1e-4
    assert data.validation.x.mean((0, 2)).abs().max() > 1e-2


def test_equal_seeds_give_equal_data_and_others_other_people(data):
    again, other = load(None, 0), load(None, 1)
    for name in ("train", "validation", "test"):
        assert torch.equal(getattr(again, name).x, getattr(data, name).x)
        assert torch.equal(getattr(again, name).y, getattr(data, name).y)
    assert again.fingerprint() == data.fingerprint() != other.fingerprint()


def test_the_networks_parameters():
    model = WatchCNN()
    weights = [m.weight.numel() for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Linear))]
    assert weights == [672, 2688, 3840, 7680, 2016]
    assert sum(p.numel() for p in model.parameters()) == 17_263


def test_a_short_training_learns(data, tmp_path):
    task = get_task("watch-cnn")
    found = full_precision(replace(task, recipe=replace(task.recipe, epochs=2)), data, seed=0, cache=tmp_path)
    assert found.score > 0.6
    with torch.no_grad():
        right = found.model(data.validation.x).argmax(1) == data.validation.y
    recalls = [right[data.validation.y == label].float().mean().item() for label in range(7)]
    assert sum(recall > 0.3 for recall in recalls) >= 6


def test_without_the_package_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(watch_file, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"which is not installed: run pip install 'ttq-plugin\[watch\]', or name"):
        load(None, 0)


def test_a_file_of_ones_own(tmp_path):
    data = load(write(tmp_path / "mine.npy"), 0)
    # Five people, of whom one validates and one tests, with seven recordings that are each long enough for one window.
    assert (len(data.train), len(data.validation), len(data.test)) == (21, 7, 7)


def spoilt(value):
    series = [np.zeros((120, 6)) for _ in range(35)]
    series[4] = value
    return series


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"X": None}, r"mine\.npy lacks X; seglearn's watch_dataset\.npy is needed"),
        ({"subject": None}, "lacks subject"),
        ({"y": np.arange(35.0)}, "y must be one whole number for each recording"),
        ({"y": list(range(35))}, "y must be one whole number for each recording"),
        ({"y": np.arange(34) % 7}, "a class and a person for each recording, got X 35, y 34, subject 35"),
        ({"y": np.arange(35) % 7 + 1}, r"y\[6\] is 7"),
        ({"X": spoilt(np.zeros((120, 5)))}, r"X\[4\] is not an array of numbers of shape \(samples, 6\)"),
        ({"X": spoilt("text")}, r"X\[4\] is not an array of numbers"),
        ({"X": spoilt(np.zeros((99, 6)))}, r"X\[4\] has 99 samples, a window takes 100"),
        ({"X": spoilt(np.full((120, 6), np.nan))}, r"X\[4\] holds a value that is NaN or infinite"),
        ({"X": spoilt(np.full((120, 6), 1e300))}, r"X\[4\] holds a value that is NaN or infinite"),
        ({"subject": np.arange(35) // 18}, "its 2 persons cannot be spread over three splits"),
    ],
)
def test_files_of_another_form(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        load(write(tmp_path / "mine.npy", **changes), 0)


class Trap:
    """Pickles as a call of `eval`."""

    def __reduce__(self):
        return eval, ("print('never')",)


def test_a_hostile_file_is_refused(tmp_path, capsys):
    with pytest.raises(InputError, match=r"it asks for \w+\.eval, and only numpy's arrays are read from a pickle"):
        load(write(tmp_path / "mine.npy", X=Trap()), 0)
    assert capsys.readouterr().out == ""


def test_a_truncated_copy_is_refused(tmp_path):
    (tmp_path / "mine.npy").write_bytes(find(None).read_bytes()[:1_000_000])
    with pytest.raises(InputError, match=r"mine\.npy cannot be read, it is damaged or of another form"):
        load(tmp_path / "mine.npy", 0)
