"""`cifar10-*`: the binary version and folders of images, how pictures move in training, and what can be wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tasks.walk import walk, walk_on
from ttq_plugin.errors import InputError
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.builtin.cifar10 import Pictures, load
from ttq_plugin.tasks.builtin.resnet import Block, ResNet
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.readers.cifar import CLASSES, RECORD, read_images


def records(each, seed=0):
    """Records of the binary version: a class is a hue, with a little noise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(10), each)
    hues = np.random.default_rng(1).uniform(40, 215, size=(10, 3, 1, 1))
    pixels = hues[labels] + rng.normal(0, 20, size=(len(labels), 3, 32, 32))
    rows = np.concatenate([labels[:, None], np.clip(pixels, 0, 255).reshape(len(labels), -1)], axis=1).astype(np.uint8)
    return rows[rng.permutation(len(rows))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar")
    for k in (1, 2):
        records(6, k).tofile(folder / f"data_batch_{k}.bin")
    records(2, 3).tofile(folder / "test_batch.bin")
    return folder


@pytest.fixture
def images(tmp_path):
    """The folder by class, with an image whose pixels are known."""
    for part, each in (("train", 2), ("test", 1)):
        for row, record in enumerate(records(each)):
            path = tmp_path / part / CLASSES[record[0]] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0)).save(path)
    return tmp_path


def test_the_binary_version_is_read_record_by_record(folder):
    train, test = read_images(folder)
    expected = np.concatenate([records(6, 1), records(6, 2)])
    assert np.array_equal(train.labels, expected[:, 0]) and train.labels.dtype == np.int64
    assert np.array_equal(train.pixels[5, 1, 3, 4], expected[5, 1 + 1024 + 3 * 32 + 4])
    assert np.array_equal(train.pixels.reshape(120, -1), expected[:, 1:]) and len(test.labels) == 20


def test_images_by_class_are_the_same_pixels(images):
    train, test = read_images(images)
    known = {record[1:].tobytes(): record[0] for record in records(2)}
    assert [known[picture.tobytes()] for picture in train.pixels] == train.labels.tolist() == sorted([*range(10)] * 2)
    assert len(test.labels) == 10


def test_a_tenth_validates_and_no_picture_is_in_two_splits(folder):
    data = load(folder, 0)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [108, 12, 20]
    found = [picture.numpy().tobytes() for part in (data.train, data.validation, data.test)
             for picture in part.dataset.pixels]  # fmt: skip
    assert len(set(found)) == 140
    other = load(folder, 1)
    assert load(folder, 0).fingerprint() == data.fingerprint() != other.fingerprint()
    assert torch.equal(other.test.dataset.pixels, data.test.dataset.pixels)


def test_training_pictures_give_the_scale(folder):
    data = load(folder, 0)
    still = Pictures(read_images(folder)[0], data.train.dataset.scale, moved=False)
    picture, label = still[7]
    pixels = data.train.dataset.pixels.double()
    mean, deviation = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)
    expected = (still.pixels[7].double() - mean[:, None, None]) / deviation[:, None, None]
    torch.testing.assert_close(picture.double(), expected, atol=1e-5, rtol=0)
    assert label == still.labels[7]


def test_pictures_move_in_training_only(folder):
    data = load(folder, 0)
    assert torch.equal(data.test.dataset[3][0], data.test.dataset[3][0])
    moved = data.train.dataset
    still = Pictures(read_images(folder)[0], moved.scale, moved=False)
    still.pixels = moved.pixels
    whole = torch.nn.functional.pad(still[3][0], (4, 4, 4, 4))
    allowed = {
        view.flip(2).numpy().tobytes() if mirrored else view.contiguous().numpy().tobytes(): (across, down, mirrored)
        for across in range(9) for down in range(9) for mirrored in (False, True)
        for view in [whole[:, down : down + 32, across : across + 32]]
    }  # fmt: skip
    torch.manual_seed(0)
    seen = [allowed[moved[3][0].contiguous().numpy().tobytes()] for _ in range(400)]
    across, down, mirrored = zip(*seen, strict=True)
    assert set(across) == set(down) == set(range(9)) and 140 < sum(mirrored) < 260


def test_the_networks_are_mlperfs_and_he_and_others():
    assert sum(p.numel() for p in ResNet(1).parameters()) == 77_946 < 80_000
    names = [name for name, module in ResNet(3).named_modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(names) == 19 + 2  # and two convolutions 1x1 on shortcuts
    torch.manual_seed(0)
    block = Block(4, 4, 1).eval()
    x = torch.randn(2, 4, 5, 5)
    inner = block.norm2(block.conv2(block.norm1(block.conv1(x)).relu()))
    assert torch.equal(block(x), (inner + x).relu())


def test_unmistakable_hues_are_learnt(folder, tmp_path):
    task = get_task("cifar10-resnet8")
    quick = replace(task, recipe=replace(task.recipe, epochs=6, batch_size=10))
    assert full_precision(quick, load(folder, 0), seed=0, cache=tmp_path).score > 0.4


def refused(source, message):
    with pytest.raises(InputError, match=message) as error:
        load(source, 0)
    assert "\n" not in str(error.value)


def test_without_pictures(tmp_path):
    refused(None, r"a folder with CIFAR-10's binary version .* is needed, or .*; none was given with --data")
    refused(tmp_path / "none", f"{tmp_path / 'none'} is none: ttq_plugin ships no data")
    refused(tmp_path, f"{tmp_path} holds neither form;")


@pytest.mark.parametrize("name", ["data_batch_1.bin", "test_batch.bin"])
def test_one_side_alone(tmp_path, name):
    records(1).tofile(tmp_path / name)
    missing = ({"data_batch_1.bin", "test_batch.bin"} - {name}).pop()
    refused(tmp_path, f"{missing} does not exist;")


def test_truncated_or_foreign_binaries(tmp_path):
    rows = records(12)
    rows.tofile(tmp_path / "test_batch.bin")
    (tmp_path / "data_batch_1.bin").write_bytes(rows.tobytes()[:-5])
    refused(tmp_path, rf"data_batch_1\.bin must hold whole records of {RECORD} bytes, but record 119 ends after 3068")
    (tmp_path / "data_batch_1.bin").write_bytes(b"")
    refused(tmp_path, r"data_batch_1\.bin must hold whole records of 3073 bytes, but record 0 ends after 0")
    rows[17, 0] = 10
    rows.tofile(tmp_path / "data_batch_1.bin")
    refused(tmp_path, r"data_batch_1\.bin: the label of record 17 is 10, not 0 to 9;")


def test_classes_that_are_missing_or_rare(tmp_path):
    rows = records(12)
    rows.tofile(tmp_path / "data_batch_1.bin")
    rows[rows[:, 0] != 6].tofile(tmp_path / "test_batch.bin")
    refused(tmp_path, "no image to test on is of class frog;")
    rows.tofile(tmp_path / "test_batch.bin")
    records(9).tofile(tmp_path / "data_batch_1.bin")
    refused(tmp_path, "class airplane has 9 pictures to train on, at least 10 are needed;")


def test_images_of_another_size_or_damaged(images):
    path = images / "train" / "cat" / "large.png"
    Image.new("RGB", (64, 32)).save(path)
    refused(images, r"cat/large\.png has 64x32 pixels, not 32x32;")
    path.write_bytes(path.read_bytes()[:40])
    refused(images, r"cat/large\.png is damaged or not an image")
    path.write_text("text")
    refused(images, r"cat/large\.png is damaged or not an image")
    path.unlink()
    (images / "test" / "zebra").mkdir()
    refused(images, "test/zebra is not a class of CIFAR-10;")


def test_every_command_takes_it(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    walk("cifar10-resnet8", folder, tmp_path)


@pytest.mark.long
def test_so_do_search_report_and_fit(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    walk_on("cifar10-resnet8", folder, tmp_path, ram="128k")
