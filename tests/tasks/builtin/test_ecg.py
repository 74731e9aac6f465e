"""The ecg tasks: where their data are from, splits, and a short training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tasks.readers.test_ecg_files import record
from ttq_plugin.errors import InputError
from ttq_plugin.tasks.builtin.ecg import TASKS
from ttq_plugin.tasks.builtin.spectrogram import scaled, spectrogram
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.readers.ecg_wfdb import read_wfdb
from ttq_plugin.tasks.scoring.scores import score as scored

NAMES = ["ecg-2dcnn", "ecg-2dcnn-ptb", "ecg-cnn-transformer", "ecg-cnn-transformer-ptb"]
CSV = TASKS["ecg-cnn-transformer"]
PTB = TASKS["ecg-cnn-transformer-ptb"]


def beats(rng, label, count):
    """Rows of the public CSVs' form: a wave whose frequency tells the class, zeros after its end."""
    wave = np.sin(np.arange(187) * (0.1 + 0.6 * label) + rng.uniform(0, 2 * np.pi, size=(count, 1)))
    rows = np.clip(0.5 + 0.4 * wave + 0.1 * rng.uniform(size=(count, 187)), 0, 1)
    rows[:, 150:] = 0
    return np.column_stack([rows, np.full(count, label)])


def write(folder, **counts):
    """CSVs by their stem, with so many beats of each class."""
    rng = np.random.default_rng(0)
    for name, each in counts.items():
        rows = np.concatenate([beats(rng, label, count) for label, count in each.items()])
        np.savetxt(folder / f"{name}.csv", rng.permutation(rows), delimiter=",")
    return folder


@pytest.fixture(scope="module")
def mitbih(tmp_path_factory):
    train, test = {0: 200, 1: 40, 2: 60, 3: 20, 4: 80}, {0: 20, 1: 4, 2: 6, 3: 1, 4: 8}
    return write(tmp_path_factory.mktemp("mitbih"), mitbih_train=train, mitbih_test=test)


@pytest.fixture(scope="module")
def ptb(tmp_path_factory):
    return write(tmp_path_factory.mktemp("ptb"), ptbdb_normal={0: 60}, ptbdb_abnormal={1: 140})


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Nine records, two of them of one person; the rare classes in some only; each person's heart at another pace."""
    folder = tmp_path_factory.mktemp("records")
    rare = {"100": "SFV/", "103": "SV", "105": "F/", "107": "SF/", "201": "VFS", "202": "FV", "207": "/", "208": "FS"}
    for place, name in enumerate([*rare, "230"]):
        symbols = "N" * 12 + "".join(kind.replace("S", "A") * 3 for kind in rare.get(name, "SVF/"))
        record(folder, name, symbols=symbols, rate=250, period=0.6 + 0.06 * place)
    return folder


def splits(data):
    return data.train, data.validation, data.test


def test_every_name_has_its_task():
    assert list(TASKS) == NAMES
    for name, task in TASKS.items():
        assert task.name == name and task.balanced and "\n" not in task.description
        classes = 2 if name.endswith("-ptb") else 5
        shape = (1, 32, 39) if "2dcnn" in name else (1, 187)
        assert task.model().eval()(torch.zeros(2, *shape)).shape == (2, classes)


def test_the_test_file_tests(mitbih):
    data = CSV.load(mitbih, 0)
    assert [s.y.bincount().tolist() for s in splits(data)] == [
        [170, 34, 51, 17, 68],
        [30, 6, 9, 3, 12],
        [20, 4, 6, 1, 8],
    ]
    rows = np.loadtxt(mitbih / "mitbih_test.csv", delimiter=",")
    assert np.array_equal(data.test.y.numpy(), rows[:, -1])
    least = rows[:, :187].min(axis=1, keepdims=True)
    expected = (rows[:, :187] - least) / (rows[:, :187].max(axis=1, keepdims=True) - least)
    np.testing.assert_allclose(data.test.x[:, 0].numpy(), expected, atol=1e-6)
    other = CSV.load(mitbih, 1)
    assert torch.equal(other.test.x, data.test.x) and not torch.equal(other.train.x, data.train.x)


def test_ptb_is_split_at_random(ptb):
    data = PTB.load(ptb, 0)
    assert [s.y.bincount().tolist() for s in splits(data)] == [[42, 97], [9, 22], [9, 21]]
    together = {x.numpy().tobytes() for split in splits(data) for x in split.x}
    assert len(together) == 200
    assert PTB.load(ptb, 0).fingerprint() == data.fingerprint() != PTB.load(ptb, 1).fingerprint()


@pytest.mark.parametrize("name", ["ecg-2dcnn", "ecg-2dcnn-ptb"])
def test_the_pictures_are_of_the_same_beats(mitbih, ptb, name):
    folder = ptb if name.endswith("-ptb") else mitbih
    pictures, signals = TASKS[name].load(folder, 0), TASKS[name.replace("2dcnn", "cnn-transformer")].load(folder, 0)
    for picture, signal in zip(splits(pictures), splits(signals), strict=True):
        assert torch.equal(picture.y, signal.y) and picture.x.shape[1:] == (1, 32, 39)
        view = spectrogram(signal.x[:, 0].double().numpy())
        np.testing.assert_allclose(picture.x[:, 0].numpy(), view, atol=1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_records_are_split_by_person(records, seed):
    all_beats = read_wfdb(records)
    rows = scaled(all_beats.signals).astype(np.float32)
    known = {row.tobytes(): person for row, person in zip(rows, all_beats.people.tolist(), strict=True)}
    data = CSV.load(records, seed)
    people = [{known[x.numpy().tobytes()] for x in split.x} for split in splits(data)]
    assert sum(map(len, splits(data))) == len(rows)
    assert sum(map(len, people)) == 8 == len(set.union(*people))
    assert all((split.y.bincount(minlength=5) > 0).all() for split in splits(data))


@pytest.mark.parametrize("name", NAMES)
def test_without_data(tmp_path, name):
    needed = (
        "ptbdb_normal.csv and ptbdb_abnormal.csv" if name.endswith("-ptb") else "mitbih_train.csv and mitbih_test.csv"
    )
    with pytest.raises(InputError, match=f"^a folder with {needed}.* needed; none was given with --data") as error:
        TASKS[name].load(None, 0)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=f"{needed}.* needed; {tmp_path / 'none'} is none"):
        TASKS[name].load(tmp_path / "none", 0)


def test_a_folder_with_one_file_missing_or_neither_kind(mitbih, ptb, tmp_path):
    with pytest.raises(InputError, match=f"WFDB records .* is needed; {ptb} holds neither"):
        CSV.load(ptb, 0)
    with pytest.raises(InputError, match=r"the data file .*ptbdb_normal\.csv does not exist"):
        PTB.load(mitbih, 0)
    (tmp_path / "mitbih_test.csv").write_bytes((mitbih / "mitbih_test.csv").read_bytes())
    with pytest.raises(InputError, match=r"the data file .*mitbih_train\.csv does not exist"):
        CSV.load(tmp_path, 0)


def test_too_few_beats_or_records(mitbih, tmp_path):
    write(tmp_path, mitbih_train={0: 20, 1: 20, 2: 20, 3: 9, 4: 20}, mitbih_test={0: 2, 1: 2, 2: 2, 4: 2})
    with pytest.raises(InputError, match=r"mitbih_train\.csv: class 3 has 9 rows, at least 10 are needed"):
        CSV.load(tmp_path, 0)
    (tmp_path / "mitbih_train.csv").write_bytes((mitbih / "mitbih_train.csv").read_bytes())
    with pytest.raises(InputError, match=r"mitbih_test\.csv: class 3 has 0 rows, at least 1 are needed"):
        CSV.load(tmp_path, 0)
    write(tmp_path, ptbdb_normal={1: 20}, ptbdb_abnormal={1: 20})
    with pytest.raises(InputError, match=r"ptbdb_normal\.csv: the label in line 1 is 1, not 0"):
        PTB.load(tmp_path, 0)
    for path in tmp_path.glob("mitbih_*.csv"):
        path.unlink()
    for name in ("100", "101", "102", "103"):
        record(tmp_path, name, symbols="NNNAAAVVVFFF" + "///" * (name < "102"))
    with pytest.raises(InputError, match=f"{tmp_path}: class 4 is found in 2 records, at least 3 are needed"):
        CSV.load(tmp_path, 0)


@pytest.mark.parametrize(
    "name, change",
    [
        ("ecg-2dcnn-ptb", {"epochs": 2, "batch_size": 8}),
        ("ecg-cnn-transformer-ptb", {"epochs": 12, "batch_size": 8}),
    ],
)
def test_unmistakable_beats_are_learnt(ptb, tmp_path, name, change):
    task = TASKS[name]
    data = task.load(ptb, 0)
    quick = replace(task, recipe=replace(task.recipe, **change))
    trained = full_precision(quick, data, seed=0, cache=tmp_path)
    assert (
        trained.score == scored(trained.model, data.validation).value > 0.8
        and scored(trained.model, data.test).value > 0.8
    )
