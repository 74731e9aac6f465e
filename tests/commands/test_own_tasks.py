"""A stranger's walk: one task of each kind, outside the package, through the commands, each in its own process."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics as sk
import torch

from tests.commands.own_modules import HEARTS, MODULES
from tests.conftest import ROOT
from ttq_plugin import load_packed

COMMAND = [sys.executable, "-c", "from ttq_plugin.cli import main; main()"]
FAST = ("--method", "ttq", "--t", "0.05", "--epochs")


def ttq(folder, *arguments, code=0):
    """One command in a fresh interpreter, in the stranger's folder; what it printed as JSON, and its errors."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TTQ_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        [*COMMAND, *arguments, "--json"], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return (json.loads(done.stdout) if code == 0 else None), done.stderr


def sklearns(kind, outputs, targets):
    """The task's metric, computed without the package."""
    out, y = outputs.double().numpy(), targets.numpy()
    return {
        "binary": lambda: sk.roc_auc_score(y, out),
        "multiclass": lambda: sk.f1_score(y, out.argmax(1), average="macro"),
        "multilabel": lambda: sk.average_precision_score(y, out, average="macro"),
        "regression": lambda: sk.root_mean_squared_error(y, out),
        "segmentation": lambda: sk.jaccard_score(y.ravel(), out.argmax(1).ravel(), average="macro"),
    }[kind]()


ENOUGH = {"binary": 0.97, "multiclass": 0.8, "multilabel": 0.8, "regression": 0.7, "segmentation": 0.6}
"""What the compressed models reach with ease; of the regression, whose targets deviate by 0.77, at most."""


@pytest.fixture
def stranger(request, tmp_path, monkeypatch):
    """A folder with the module, and the task itself in this process."""
    (tmp_path / f"own_{request.param}.py").write_text(MODULES[request.param])
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield request.param, tmp_path, importlib.import_module(f"own_{request.param}").TASK
    sys.modules.pop(f"own_{request.param}")


@pytest.mark.parametrize("stranger", MODULES, indirect=True)
def test_train_sensitivity_compress(stranger):
    kind, folder, task = stranger
    name, metric = f"own_{kind}:TASK", task.metric
    trained, log = ttq(folder, "train", name)
    assert trained["metric"] == metric and "full-precision model: trained now" in log
    assert (trained[metric] < ENOUGH[kind]) if kind == "regression" else (trained[metric] > ENOUGH[kind])

    table, log = ttq(folder, "sensitivity", name, "--out", "layers.json")
    assert "full-precision model: from the cache (" in log
    layers = {layer for layer, module in task.model().named_modules() if getattr(module, "weight", None) is not None}
    assert set(table["layers"]) <= layers and json.loads((folder / "layers.json").read_text())

    made, _ = ttq(folder, "compress", name, *FAST, "30" if kind == "regression" else "4", "--out", "small.safetensors")
    packed = load_packed(folder / "small.safetensors", model=task.model()).eval()
    data = task.load(None, 0)
    for split, key in ((data.validation, metric), (data.test, f"test_{metric}")):
        with torch.no_grad():
            expected = sklearns(kind, packed(split.x), split.y)
        assert made[key] == pytest.approx(expected, abs=1e-6), "the file is the model that was scored"
    assert made[f"{metric}_fp32"] == trained[metric] and made[f"test_{metric}_fp32"] == trained[f"test_{metric}"]
    assert (made[metric] < ENOUGH[kind]) if kind == "regression" else (made[metric] > ENOUGH[kind])
    for layer in made["layers"]:
        assert len(packed.get_submodule(layer).weight.unique()) <= 3
    assert 0 < made["srqw"] < 1 and made["bits_entropy"] < made["bits_fp32"] / 3
    check_parts(kind, task, made, packed, data)


def check_parts(kind, task, made, packed, data):
    """What the score is made of, by class or output."""
    with torch.no_grad():
        out, y = packed(data.validation.x).numpy(), data.validation.y.numpy()
    if kind == "multiclass":
        expected = sk.recall_score(y, out.argmax(1), average=None)
        assert [made["parts"][f"recall_{k}"] for k in range(10)] == pytest.approx(expected.tolist(), abs=1e-6)
        assert made["parts"]["balanced_accuracy"] == pytest.approx(expected.mean(), abs=1e-6)
    elif kind == "multilabel":
        expected = sk.recall_score(y, out > 0, average=None)
        assert list(made["parts"].values()) == pytest.approx(expected.tolist(), abs=1e-6)
    elif kind == "segmentation":
        expected = sk.jaccard_score(y.ravel(), out.argmax(1).ravel(), average=None)
        assert made["parts"] == pytest.approx({"iou_0": expected[0], "iou_1": expected[1]}, abs=1e-6)
    elif kind == "regression":
        assert made["parts"].keys() == {"rmse", "mae", "r2"}
        assert made["parts"]["r2"] == pytest.approx(sk.r2_score(y, out), abs=1e-5)
    else:
        assert made["parts"]["recall_1"] == pytest.approx(np.mean(out[y == 1] > 0), abs=1e-6)


def test_a_rare_class_that_compression_loses_is_told(tmp_path):
    """Most beats are normal: the score stays high, and one sentence says which class is gone."""
    (tmp_path / "hearts.py").write_text(HEARTS)
    # Learning rates near zero leave the weights as they are, but for their being cut to three values.
    harsh = ("--method", "twn", "--epochs", "1", "--lr", "1e-6", "--lr-scale", "1e-6")
    made, _ = ttq(tmp_path, "compress", "hearts:TASK", *harsh)
    before, after = made["parts_fp32"], made["parts"]
    lost = [k for k in range(3) if after[f"recall_{k}"] < 0.1 * before[f"recall_{k}"]]
    assert lost and min(before.values()) > 0.5, "full precision finds every class"
    assert made["mcc"] > 0.5, "one number does not show it"
    names = ("normal", "wide", "late")
    told = [note for note in made["notes"] if "is lost" in note]
    assert told == [
        f"class {names[k]} is lost: its recall fell from {100 * before[f'recall_{k}']:.1f} % in full precision to "
        f"{100 * after[f'recall_{k}']:.1f} %"
        for k in lost
    ]
