"""A user's own task by module:attribute, and what a recipe changes while a model trains."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from nni.compression.quantization import LsqQuantizer, QATQuantizer
from torch import nn

from tests.reproduce import tiny
from ttq_plugin.errors import InputError
from ttq_plugin.methods import LSQ_QUANTIZER, QAT_QUANTIZER
from ttq_plugin.nni_adapter.links import INTEGERS
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.forward import at_precision, copy_dropout, set_dropout
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.task import Data, Recipe
from ttq_plugin.trial.run import Settings, prepare, run

OWN = """
from dataclasses import replace
from tests.reproduce.tiny import TASK
MINE = replace(TASK, name="whatever")
"""


def test_in_the_current_folder_from_the_command_line(tmp_path):
    (tmp_path / "mine.py").write_text(OWN.replace("tests.reproduce.tiny", "tiny_task"))
    (tmp_path / "tiny_task.py").write_text(open(tiny.__file__).read())
    command = [sys.executable, "-c", "from ttq_plugin.cli import main; main()"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 300}
    shared = ["--cache", str(tmp_path / "cache"), "--json"]
    done = subprocess.run([*command, "compress", "mine:MINE", "--epochs", "2", *shared], **options)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["settings"]["task"] == "mine:MINE" and result["simulated"] is True
    assert [p.name for p in (tmp_path / "cache").glob("mine_MINE-SIMULATED-seed0-*.safetensors")]
    failed = subprocess.run([*command, "train", "mine:YOURS", *shared], **options)
    assert failed.returncode == 2 and "cannot be imported from" in failed.stderr and "YOURS" in failed.stderr


@pytest.mark.parametrize(
    "name, message",
    [
        ("tests.reproduce.tiny:NOT_A_TASK", "must be a ttq_plugin.tasks.task.Task, got int"),
        ("tests.reproduce.tiny:NONE", "cannot be imported from .*AttributeError"),
        ("no_such_module:TASK", "cannot be imported from .*No module named 'no_such_module'"),
        ("tests.reproduce.tiny", "task must be one of mnist-cnn, .*; a task of your own is module:attribute"),
        ("os; rm:x", "task must be one of"),
    ],
)
def test_names_that_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        get_task(name)


def test_simulated_data_are_named_in_the_cache_and_in_what_is_prepared(tmp_path):
    ready = prepare("tests.reproduce.tiny:TASK", cache=tmp_path)
    assert ready.simulated and all("SIMULATED" in path.name for path in tmp_path.iterdir())


def test_dropout_is_the_recipes_while_training_and_the_models_own_after(tmp_path):
    seen = []

    class Noted(nn.Dropout):
        def forward(self, x):
            seen.append((self.training, self.p))
            return super().forward(x)

    def model():
        net = tiny.model()
        net.add_module("dropout", Noted(0.5))
        return net

    task = replace(tiny.TASK, model=model, recipe=Recipe(epochs=1, lr=1e-3, dropout=0.25))
    made = full_precision(task, tiny.load(None, 0), seed=0, cache=tmp_path).model
    assert (True, 0.25) in seen and {p for training, p in seen if training} == {0.25} and made.dropout.p == 0.5

    ready = prepare(task, cache=tmp_path, curvature=False)
    seen.clear()
    entry = [{"op_names": ["conv1"], "target_names": ["weight"]}]
    outcome = run(ready, Settings("tiny", "ttq", epochs=1, dropout=0.125), config_list=entry)
    assert {p for training, p in seen if training} == {0.125} and outcome.model.dropout.p == 0.5
    assert ready.model.dropout.p == 0.5
    with pytest.raises(InputError, match=r"dropout must lie in \[0, 1\), got 1"):
        Settings("tiny", "ttq", dropout=1.0)


def test_set_and_copy_dropout():
    source, target = (
        nn.Sequential(nn.Dropout2d(0.3), nn.Dropout(0.4)),
        nn.Sequential(nn.Dropout2d(0.1), nn.Dropout(0.2)),
    )
    set_dropout(target, None)
    assert [m.p for m in target] == [0.1, 0.2]
    copy_dropout(source, target)
    assert [m.p for m in target] == [0.3, 0.4]
    set_dropout(target, 0.0)
    assert [m.p for m in target] == [0.0, 0.0]


def test_bfloat16_computes_products_in_bfloat16_and_the_loss_in_float32():
    net, x = nn.Linear(64, 4), torch.randn(32, 64)
    kinds = []
    net.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))

    def step(batch, model):
        logits = model(batch)
        kinds.append(logits.dtype)
        return logits.square().mean()

    exact = step(x, net)
    loss = at_precision(step, "bfloat16")(x, net)
    assert kinds == [torch.float32, torch.float32, torch.bfloat16, torch.float32]
    assert loss != exact and loss.item() == pytest.approx(exact.item(), rel=0.02)
    loss.backward()
    assert net.weight.grad.dtype == torch.float32
    assert at_precision(step, "float32") is step
    with pytest.raises(InputError, match="precision must be one of float32, bfloat16, got 'int8'"):
        Recipe(epochs=1, lr=1e-3, precision="int8")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compression_at_each_precision_is_exactly_ternary(tmp_path, precision):
    ready = prepare(tiny.TASK, cache=tmp_path, curvature=False)
    entry = [{"op_names": ["conv1", "conv2"], "target_names": ["weight"]}]
    outcome = run(ready, Settings("tiny", "pttq", epochs=2, precision=precision), config_list=entry)
    for layer in ("conv1", "conv2"):
        weight = outcome.model.get_submodule(layer).weight
        assert weight.dtype == torch.float32 and len(weight.unique()) <= 3


def test_lsq_is_nnis_own_at_two_bits_and_measured_as_ternary(tmp_path):
    ready = prepare(tiny.TASK, cache=tmp_path)
    settings = Settings("tiny", "lsq-int2", lr=1e-2, epochs=3)
    outcome = run(ready, settings, config_list=[{"op_names": ["conv1"], "target_names": ["weight"]}])
    values = outcome.model.conv1.weight.unique()
    assert len(values) == 3 and values[1] == 0 and values[0] == -values[2]
    assert outcome.report.kinds == {"conv1": "ternary"} and outcome.widths == {}
    assert outcome.metrics["srqw"] == (outcome.model.conv1.weight == 0).float().mean().item()
    assert run(ready, settings).layers  # without a list, curvature chooses
    with pytest.raises(InputError, match="lsq-int2 has no t_min; NNI's LsqQuantizer has no options"):
        Settings("tiny", "lsq-int2", t_min=1.0)
    assert set(INTEGERS) == {QAT_QUANTIZER, LSQ_QUANTIZER} == {QATQuantizer.__name__, LsqQuantizer.__name__}


def test_settings_reach_the_method(tmp_path):
    ready = prepare(tiny.TASK, cache=tmp_path)
    entry = [{"op_names": ["conv1"], "target_names": ["weight"]}]
    assert Settings("tiny", "attq", normalize=True).options() == {"normalize": True}
    one = run(ready, Settings("tiny", "ttq", epochs=1, scale_init="one"), config_list=entry)
    assert one.model.conv1.weight.abs().max() > 0.9
    channels = run(ready, Settings("tiny", "pttq", epochs=1, granularity="out_channel"))
    assert len(channels.model.conv1.weight.unique()) > 3
    with pytest.raises(InputError, match="granularity must be default or out_channel, got 'row'"):
        Settings("tiny", "pttq", granularity="row")


@pytest.mark.parametrize("split", range(3))
def test_a_load_that_gives_other_data_each_time_is_told_before_the_training(split, tmp_path, monkeypatch):
    from tests.test_api import TASK
    from ttq_plugin import train
    from ttq_plugin.trial import prepared

    def load(source, seed):
        data = TASK.load(source, seed)
        splits = [data.train, data.validation, data.test]
        splits[split] = splits[split].take(torch.randperm(len(splits[split])))
        return Data(*splits)

    monkeypatch.setattr(prepared, "full_precision", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(InputError, match="must give the same data for the same arguments, but gave other samples"):
        train(replace(TASK, load=load), cache=tmp_path, show=False)
