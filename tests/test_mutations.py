"""No damage to a file that is read back is silent, and each error names the file and says what to do.

The full count of 20 000 of each kind is run by hand: ``pytest -m long tests/test_mutations.py``.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.mutations import silent
from tests.nni_adapter.nets import Net, config, make_evaluator
from tests.reproduce.tiny import TASK
from ttq_plugin import InputError
from ttq_plugin.deploy.source import open_model
from ttq_plugin.nni_adapter import PTTQQuantizer
from ttq_plugin.support.files import read_json
from ttq_plugin.support.weights import load_weights, save_weights
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.task import Data, Recipe, Split, Task
from ttq_plugin.trial.prepared import prepare


def often(few: int):
    return pytest.mark.parametrize("count", [few, pytest.param(20_000, marks=pytest.mark.long)])


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@often(400)
def test_weights(tmp_path, count):
    """With metadata that looks like the digest itself."""
    torch.manual_seed(0)
    net, path = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), tmp_path / "w.safetensors"
    save_weights(net, path, {"task": "a task", "seed": "3", "note": '"ttq_digest":"' + "0" * 64 + '"'})
    before = state(net)
    assert not list(silent(path, lambda: load_weights(net, path), count))
    assert same(state(net), before)


@often(400)
def test_checkpoints(tmp_path, count):
    torch.manual_seed(0)
    quantizer, path = PTTQQuantizer(model := Net(), config("conv1", "conv2"), make_evaluator(model)), tmp_path / "c.pt"
    quantizer.compress(None, 1)
    quantizer.save_checkpoint(path)
    before, steps = state(model), quantizer.steps
    assert not list(silent(path, lambda: quantizer.load_checkpoint(path), count, header=False))
    assert same(state(model), before) and quantizer.steps == steps
    quantizer.load_checkpoint(path)


def load(source, seed):
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0] > 0).long()
    return Data(*(Split(x[i::3], y[i::3]) for i in range(3)))


@often(200)
def test_cached_models(tmp_path, count):
    task = Task("own", "signs", load, lambda: nn.Linear(4, 2), F.cross_entropy, Recipe(epochs=1, lr=1e-2))
    data = load(None, 0)
    first = full_precision(task, data, seed=0, cache=tmp_path)
    assert not list(silent(first.path, lambda: full_precision(task, data, seed=0, cache=tmp_path), count))
    assert same(state(full_precision(task, data, seed=0, cache=tmp_path).model), state(first.model))


@often(200)
def test_weights_of_trials(tmp_path, count):
    """As `ttq export STUDY --trial N` reads them, and a search before it scores them on test data."""
    name, path = "tests.reproduce.tiny:TASK", tmp_path / "trial-3.safetensors"
    model = TASK.model()
    save_weights(model, path, {"task": name, "seed": "0", "method": "ttq"})
    assert not list(silent(path, lambda: open_model(path, name, signed=True), count))
    assert same(state(open_model(path, name, signed=True).model), state(model))


def test_cached_traces(tmp_path):
    ready = prepare(TASK, cache=tmp_path)
    [path] = tmp_path.glob("*.traces-*.json")
    assert not list(silent(path, lambda: prepare(TASK, cache=tmp_path), 40, header=False))
    again = prepare(TASK, cache=tmp_path)
    assert again.traces == ready.traces and again.origin.startswith("from the cache")


def test_every_bit_of_cached_traces(tmp_path):
    """Each of them is covered by the digest, and the command that reads the file says which one is to be deleted."""
    prepare(TASK, cache=tmp_path)
    [path] = tmp_path.glob("*.traces-*.json")
    data = path.read_bytes()
    remedy = f"{path} is damaged, or was not written by this version: its digest does not match; delete it, then make"
    with path.open("r+b", buffering=0) as file:
        for bit in range(8 * len(data)):
            file.seek(0)
            file.write(data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :])
            read = read_json if bit % 2003 else lambda path: prepare(TASK, cache=tmp_path)
            with pytest.raises(InputError) as told:
                read(path)
            assert str(told.value).startswith(remedy)
    assert bit > 1000
    path.unlink()
    prepare(TASK, cache=tmp_path)
    assert path.read_bytes() == data


def test_what_to_do_is_said(tmp_path):
    path = full_precision(TASK, data := TASK.load(None, 0), seed=0, cache=tmp_path).path
    content = bytearray(path.read_bytes())
    content[-5] ^= 16
    path.write_bytes(content)
    with pytest.raises(InputError) as told:
        full_precision(TASK, data, seed=0, cache=tmp_path)
    assert str(told.value) == (
        f"The cached full-precision model cannot be used: {path} is damaged: its bytes do not match its digest; delete "
        "it, or pass --retrain, to train it again."
    )
