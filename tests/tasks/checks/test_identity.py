"""The cache gives a model only for the code, loss, data and weights that it was trained with."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from ttq_plugin.errors import InputError
from ttq_plugin.support.weights import save_weights
from ttq_plugin.tasks.full_precision import full_precision

MODULE = """
import functools
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import helpers
from helpers import scaled
from ttq_plugin.tasks.task import Data, Recipe, Split, Task

ACTIVATION = torch.relu
WEIGHTS = np.array([1.0, 2.0])


def load(source, seed):
    x = torch.randn(90, 4, generator=torch.Generator().manual_seed(seed))
    return Data(*(Split(part, (part[:, 0] > 0).long()) for part in x.split(30)))


class Net(nn.Module):
    def __init__(self, heads=1):
        super().__init__()
        self.inner, self.act, self.out = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)
        self.heads, self.function = heads, ACTIVATION

    def forward(self, x):
        return self.out(self.function(self.act(self.inner(x))))


def model():
    return Net()


@functools.lru_cache
def factor(k):
    return 1.0


def loss(outputs, targets):
    from late import late

    weight = torch.as_tensor(WEIGHTS).float()
    return factor(1) * late(scaled(helpers.twice(F.cross_entropy(outputs, targets, weight=weight))))


TASK = Task("mine", "a task", load, model, loss, Recipe(epochs=1, lr=0.01, batch_size=30))
"""
HELPERS = '''
FACTOR = 3.0


def scaled(value):
    """Docstring."""
    def inner():
        return value * FACTOR
    return inner()


def twice(value):
    return 2 * value
'''
LATE = "def late(value):\n    return value + 1\n"

NAME = """
import json, sys
from pathlib import Path
from mine import TASK
from ttq_plugin.support.seeds import seeded
from ttq_plugin.tasks.full_precision import _name
data = TASK.load(None, 0)
with seeded(0):
    start = TASK.model()
TASK.loss(start(data.train.x), data.train.y)
print(json.dumps(_name(TASK, data, 0, start, own=False)))
"""


def name(folder, *changes, file="mine.py"):
    """The cached file's name in a fresh interpreter, after changes to the module's text."""
    folder.mkdir(exist_ok=True)
    texts = {"mine.py": MODULE, "helpers.py": HELPERS, "late.py": LATE}
    for old, new in changes:
        assert old in texts[file]
        texts[file] = texts[file].replace(old, new)
    for path, text in texts.items():
        (folder / path).write_text(text)
    done = subprocess.run([sys.executable, "-c", NAME], cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def imported(monkeypatch, tmp_path, changes, file):
    """The same in this process, with fresh modules."""
    texts = {"mine.py": MODULE, "helpers.py": HELPERS, "late.py": LATE}
    for old, new in changes:
        assert old in texts[file], old
        texts[file] = texts[file].replace(old, new)
    for path, text in texts.items():
        (tmp_path / path).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for module in ("mine", "helpers", "late"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    import importlib

    importlib.invalidate_caches()
    made = importlib.import_module("mine").TASK
    start = seeded_model(made)
    from ttq_plugin.tasks.full_precision import _name

    data = made.load(None, 0)
    made.loss(start(data.train.x), data.train.y)
    return _name(made, data, 0, start, own=False)


def seeded_model(task):
    from ttq_plugin.support.seeds import seeded

    with seeded(0):
        return task.model()


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    return name(tmp_path_factory.mktemp("project"))


def test_a_fresh_interpreter_and_another_folder_find_the_same(unchanged, tmp_path, monkeypatch):
    assert name(tmp_path / "other") == unchanged
    assert imported(monkeypatch, tmp_path, [], "mine.py") == unchanged
    assert unchanged.startswith("mine-seed0-")


OTHER = {
    "another activation module": ("mine.py", ("nn.ReLU()", "nn.Tanh()")),
    "another function of torch's, by a constant": ("mine.py", ("ACTIVATION = torch.relu", "ACTIVATION = torch.tanh")),
    "a negated loss": ("mine.py", ("return factor(1) *", "return -factor(1) *")),
    "another option of the loss": ("mine.py", ("weight=weight)", "weight=weight, label_smoothing=0.1)")),
    "an array that the loss uses": ("mine.py", ("np.array([1.0, 2.0])", "np.array([1.0, 2.5])")),
    "a cached function": ("mine.py", ("    return 1.0\n", "    return 1.5\n")),
    "an option that no weight shows": ("mine.py", ("return Net()", "return Net(heads=2)")),
    "another order in forward": ("mine.py", ("self.function(self.act(self.inner(x)))", "self.act(self.inner(x))")),
    "another initial weight": ("mine.py", ("return Net()", "torch.rand(1)\n    return Net()")),
    "a constant of an imported function": ("helpers.py", ("FACTOR = 3.0", "FACTOR = 4.0")),
    "a function reached through its module": ("helpers.py", ("return 2 * value", "return 5 * value")),
    "a function imported where it is used": ("late.py", ("value + 1", "value + 2")),
}

SAME = {
    "comments": ("mine.py", ("return Net()", "# a comment\n\n    return Net()  # another")),
    "a docstring where there was none": ("mine.py", ("def model():\n", 'def model():\n    """Makes the model."""\n')),
    "another docstring": ("helpers.py", ("Docstring.", "Another one.")),
    "a class's docstring": ("mine.py", ("class Net(nn.Module):\n", 'class Net(nn.Module):\n    """Mine."""\n\n')),
    "what nothing refers to": ("mine.py", ("TASK =", "UNUSED = 3\n\nTASK =")),
}


@pytest.mark.parametrize("what", OTHER)
def test_a_change_that_matters_is_another_model(what, unchanged, tmp_path, monkeypatch):
    file, change = OTHER[what]
    assert imported(monkeypatch, tmp_path, [change], file) != unchanged


@pytest.mark.parametrize("what", SAME)
def test_a_change_of_words_is_the_same_model(what, unchanged, tmp_path, monkeypatch):
    file, change = SAME[what]
    assert imported(monkeypatch, tmp_path, [change], file) == unchanged


def test_two_projects_with_one_name_and_the_same_data_do_not_share(tmp_path):
    """The whole way, in two folders with one cache: each gets its own model's score."""
    code = "from ttq_plugin.cli import main; main()"

    def trained(folder, *changes):
        folder.mkdir()
        for path, text in (("mine.py", MODULE), ("helpers.py", HELPERS), ("late.py", LATE)):
            for old, new in changes:
                text = text.replace(old, new)
            (folder / path).write_text(text)
        command = [sys.executable, "-c", code, "train", "mine:TASK", "--cache", str(tmp_path / "cache"), "--json"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    one = trained(tmp_path / "one")
    other = trained(tmp_path / "other", ("nn.ReLU()", "nn.Tanh()"))
    again = trained(tmp_path / "again")
    assert [result["origin"].startswith("trained now") for result in (one, other, again)] == [True, True, False]
    assert again["origin"].startswith("from the cache (") and again["mcc"] == one["mcc"]
    assert len(list((tmp_path / "cache").glob("mine_TASK-*.safetensors"))) == 2


# In one process: what full_precision does with its file.


def load(source, seed):
    from ttq_plugin.tasks.task import Data, Split

    x = torch.randn(90, 4, generator=torch.Generator().manual_seed(seed))
    return Data(*(Split(part, (part[:, 0] > 0).long()) for part in x.split(30)))


def linear():
    return torch.nn.Linear(4, 2)


def task():
    from ttq_plugin.tasks.task import Recipe, Task

    loss = torch.nn.functional.cross_entropy
    return Task("plain", "a task", load, linear, loss, Recipe(epochs=2, lr=0.1, batch_size=30))


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_from_the_cache_and_retrained(tmp_path):
    data = load(None, 0)
    first = full_precision(task(), data, seed=0, cache=tmp_path)
    again = full_precision(task(), data, seed=0, cache=tmp_path)
    assert first.trained and first.origin == "trained now"
    assert not again.trained and again.origin.startswith(f"from the cache ({first.path}, 20")
    forced = full_precision(task(), data, seed=0, cache=tmp_path, retrain=True)
    assert forced.trained and forced.origin == "trained now" and forced.path == first.path
    assert equal(first.model, again.model) and equal(first.model, forced.model) and first.score == again.score
    assert full_precision(task(), data, seed=1, cache=tmp_path).trained


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_cache_is_refused_and_trained_again_to_the_same_model_when_asked(tmp_path, damage):
    data = load(None, 0)
    first = full_precision(task(), data, seed=0, cache=tmp_path)
    content = bytearray(first.path.read_bytes())
    content[-3] ^= 1
    damaged = bytes({"flipped": content, "cut": content[:-8], "empty": b""}[damage])
    first.path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"^The cached full-precision model cannot be used: .*/plain-seed0.*") as told:
        full_precision(task(), data, seed=0, cache=tmp_path)
    assert str(first.path) in str(told.value) and first.path.read_bytes() == damaged, "nothing is lost unasked"
    assert str(told.value).endswith("delete it, or pass --retrain, to train it again.")
    again = full_precision(task(), data, seed=0, cache=tmp_path, retrain=True)
    assert (
        again.trained
        and equal(first.model, again.model)
        and not full_precision(task(), data, seed=0, cache=tmp_path).trained
    )


def test_own_weights(tmp_path):
    data, own = load(None, 0), linear()
    with torch.no_grad():
        own.weight.copy_(torch.tensor([[-1.0, 0, 0, 0], [1.0, 0, 0, 0]]))
        own.bias.zero_()
    save_file({name: value.contiguous() for name, value in own.state_dict().items()}, tmp_path / "other.safetensors")
    save_weights(own, tmp_path / "ours.safetensors")
    for file in ("other.safetensors", "ours.safetensors"):
        found = full_precision(task(), data, seed=0, cache=tmp_path / "cache", weights=tmp_path / file)
        assert found.score == 1.0 and not found.trained and equal(found.model, own)
        assert found.origin == f"from your file {tmp_path / file}" and not found.path.exists()
    other = full_precision(task(), data, seed=0, cache=tmp_path / "cache")
    assert other.path != found.path, "what is cached beside them is not mixed up"
    with pytest.raises(InputError, match="Your own weights are used as they are.*leave out either weights or retrain"):
        full_precision(task(), data, seed=0, weights=tmp_path / "ours.safetensors", retrain=True)
    with pytest.raises(InputError, match="holds weights of another architecture than Sequential"):
        wrong = replace(task(), model=lambda: torch.nn.Sequential(linear()))
        full_precision(wrong, data, seed=0, cache=tmp_path / "cache", weights=tmp_path / "ours.safetensors")
    torch.save(own.state_dict(), tmp_path / "pickled.pt")
    with pytest.raises(InputError, match="not a safetensors file"):
        full_precision(task(), data, seed=0, cache=tmp_path / "cache", weights=tmp_path / "pickled.pt")


def test_a_checkpoint_that_the_model_starts_from_is_part_of_it(tmp_path):
    def start(value):
        def model():
            made = linear()
            torch.nn.init.constant_(made.weight, value)
            return made

        return model

    data = load(None, 0)
    one, other = (full_precision(replace(task(), model=start(v)), data, seed=0, cache=tmp_path) for v in (0.1, 0.2))
    assert one.trained and other.trained and one.path != other.path


def test_the_collate_function_is_part_of_it(tmp_path):
    from ttq_plugin.tasks.task import Data

    def data(collate):
        rows = load(None, 0)
        parts = (torch.utils.data.TensorDataset(s.x, s.y) for s in (rows.train, rows.validation, rows.test))
        return Data(*parts, collate=collate)

    def plain(pairs):
        return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])

    def doubled(pairs):
        return 2 * torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])

    one, other = (full_precision(task(), data(collate), seed=0, cache=tmp_path) for collate in (plain, doubled))
    assert one.path != other.path and not full_precision(task(), data(plain), seed=0, cache=tmp_path).trained


def test_errors_of_the_users_code_are_not_taken_for_the_caches(tmp_path):
    def loss(outputs, targets):
        raise FileNotFoundError("class weights.csv")

    with pytest.raises(InputError, match="^Training in epoch 1 of 2 failed: FileNotFoundError: class weights.csv"):
        full_precision(replace(task(), loss=loss), load(None, 0), seed=0, cache=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the cache folder .* cannot be written"):
        full_precision(task(), load(None, 0), seed=0, cache=tmp_path / "file" / "cache")
