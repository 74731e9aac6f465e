"""The mnist-cnn task: data, model, training, cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.support.weights import load_weights, save_weights
from ttq_plugin.tasks import TASKS, get_task
from ttq_plugin.tasks.builtin.mnist import MnistCNN
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.scoring.scores import outputs_of, score
from ttq_plugin.tasks.task import Recipe, Split
from ttq_plugin.tasks.training import train

TASK = get_task("mnist-cnn")


@pytest.fixture(scope="module")
def digits():
    return TASK.load(None, 0)


def test_the_model_has_the_papers_parameters():
    model = MnistCNN()
    assert sum(p.numel() for p in model.parameters()) == 9840
    selected = model.conv1.weight.numel() + model.conv2.weight.numel()
    assert selected == 5250 and round(100 * selected / 9840, 2) == 53.35
    assert model(torch.zeros(2, 1, 20, 20)).shape == (2, 10)


def rows(split):
    return {x.numpy().tobytes() for x in split.x}


def test_splits_of_the_embedded_digits(digits):
    assert [len(s) for s in (digits.train, digits.validation, digits.test)] == [3000, 1000, 1000]
    for split, each in ((digits.train, 300), (digits.validation, 100), (digits.test, 100)):
        assert split.x.shape[1:] == (1, 20, 20) and split.x.dtype == torch.float32
        assert torch.equal(split.y.bincount(), torch.full((10,), each))
    train, validation, test = rows(digits.train), rows(digits.validation), rows(digits.test)
    assert not train & test and not train & validation and not validation & test
    assert digits.train.x.mean().abs() < 1e-4 and (digits.train.x.std() - 1).abs() < 1e-4


def test_splits_are_seeded(digits):
    again, other = TASK.load(None, 0), TASK.load(None, 1)
    assert torch.equal(again.train.x, digits.train.x) and again.fingerprint() == digits.fingerprint()
    assert other.fingerprint() != digits.fingerprint()


def test_the_full_set(shared, monkeypatch):
    data = TASK.load(shared / "data" / "mnist.npz", 0)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [4800, 1200, 10_000]
    monkeypatch.setenv("TTQ_DATA_DIR", str(shared / "data"))
    assert TASK.load(None, 0).fingerprint() == data.fingerprint()


def archive(path: Path, **changes) -> Path:
    arrays = {
        "x_train": np.zeros((600, 28, 28), np.uint8),
        "y_train": np.tile(np.arange(10, dtype=np.uint8), 60),
        "x_test": np.zeros((20, 28, 28), np.uint8),
        "y_test": np.tile(np.arange(10, dtype=np.uint8), 2),
    } | changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x_test": None}, "lacks the array x_test"),
        (
            {"x_train": np.zeros((600, 20, 20), np.uint8)},
            r"x_train has shape \(600, 20, 20\) and type uint8; an \.npz with",
        ),
        ({"x_train": np.zeros((600, 28, 28))}, "x_train has shape .* type float64"),
        ({"y_train": np.zeros(599, np.uint8)}, r"y_train has shape \(599,\)"),
        ({"y_train": np.zeros(600)}, "y_train has shape .* type float64"),
        ({"y_test": np.r_[np.zeros(19, np.uint8), np.uint8(10)]}, r"y_test\[19\] is 10"),
        ({"y_train": np.zeros(600, np.uint8)}, "class 1 has 0 images in y_train, at least 50"),
    ],
)
def test_a_data_file_of_another_form(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        TASK.load(archive(tmp_path / "digits.npz", **changes), 0)


def test_a_data_file_that_is_missing_truncated_or_a_pickle(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.npz does not exist; an \.npz with x_train"):
        TASK.load(tmp_path / "nowhere.npz", 0)
    good = archive(tmp_path / "good.npz").read_bytes()
    for size in (0, 3, len(good) // 2, len(good) - 30):
        (tmp_path / "cut.npz").write_bytes(good[:size])
        with pytest.raises(InputError, match="cannot be read, it is damaged or not an .npz file"):
            TASK.load(tmp_path / "cut.npz", 0)
    objects = archive(tmp_path / "objects.npz", x_train=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="cannot be read"):
        TASK.load(objects, 0)


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(InputError, match=f"task must be one of {', '.join(TASKS)}, got 'mnist'"):
        get_task("mnist")


@pytest.fixture(scope="module")
def quick():
    from dataclasses import replace

    return replace(TASK, recipe=Recipe(epochs=2, lr=4e-3))


def test_full_precision_is_trained_once_per_task_seed_and_data(quick, digits, tmp_path):
    epochs = []

    def fetch(**kw):
        return full_precision(quick, digits, cache=tmp_path, on_epoch=lambda e, _: epochs.append(e), **kw)

    first, again = fetch(seed=0), fetch(seed=0)
    assert first.trained and not again.trained and epochs == [1, 2]
    assert first.score == again.score == score(again.model, digits.validation).value > 0.5
    for one, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert fetch(seed=1).trained
    first.path.write_bytes(first.path.read_bytes()[:100])
    with pytest.raises(InputError, match="delete it, or pass --retrain, to train it again"):
        fetch(seed=0)
    first.path.unlink()
    repaired = fetch(seed=0)
    assert repaired.trained and repaired.score == first.score


def test_training_is_reproducible_and_leaves_the_global_generator_alone(quick, digits, tmp_path):
    state = torch.random.get_rng_state()
    one = full_precision(quick, digits, seed=3, cache=tmp_path / "a")
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(1)
    other = full_precision(quick, digits, seed=3, cache=tmp_path / "b")
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_cache_that_cannot_be_written(quick, digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the cache folder .*file/cache cannot be written"):
        full_precision(quick, digits, seed=0, cache=tmp_path / "file" / "cache")


def test_a_loss_that_is_not_finite_ends_the_training(digits):
    model = MnistCNN()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e20)
    small = Split(digits.train.x[:320], digits.train.y[:320])
    with pytest.raises(Diverged, match=r"the training loss became (nan|inf) in epoch \d of 3"):
        train(model, optimizer, None, lambda b, m: TASK.loss(m(b[0]), b[1]), small, epochs=3, batch_size=32, seed=0)


def test_batches_cover_the_split_once():
    split = Split(torch.arange(10.0), torch.arange(10))
    assert torch.cat([y for _, y in split.batches(3)]).tolist() == list(range(10))
    shuffled = torch.cat([y for _, y in split.batches(3, torch.Generator().manual_seed(0))]).tolist()
    assert sorted(shuffled) == list(range(10)) != shuffled


def test_predicting_brings_the_mode_back(digits):
    model = MnistCNN().train()
    small = Split(digits.test.x[:50], digits.test.y[:50])
    assert torch.equal(outputs_of(model, small)[0], outputs_of(model, small)[0]) and model.training


def test_weights_go_round_and_damage_is_told(tmp_path):
    model, twin = MnistCNN(), MnistCNN()
    save_weights(model, tmp_path / "m.safetensors", {"task": "mnist-cnn"})
    assert load_weights(twin, tmp_path / "m.safetensors") == {"task": "mnist-cnn"}
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    with pytest.raises(InputError, match="holds weights of another architecture than Linear"):
        load_weights(torch.nn.Linear(2, 2), tmp_path / "m.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(InputError, match="is damaged or not a safetensors file"):
        load_weights(twin, tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match="cannot be written"):
        save_weights(model, Path("/dev/null/m.safetensors"))
