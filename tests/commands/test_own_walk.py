"""The second half of the walk: own tasks of five kinds through search, report, every export and MLflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.commands.own_modules import MODULES
from tests.commands.test_own_tasks import sklearns, stranger, ttq
from tests.conftest import ROOT
from ttq_plugin.support.weights import load_weights

__all__ = ["stranger"]

FORMS = ("packed", "onnx", "onnx-int2", "onnx-int8", "c", "mlflow")


@pytest.mark.parametrize("stranger", MODULES, indirect=True)
def test_search_report_export_load(stranger):
    kind, folder, task = stranger
    name, metric = f"own_{kind}:TASK", task.metric
    found, _ = ttq(folder, "search", name, "--trials", "8", "--study", "walk", "--workers", "2")
    assert found["metric"] == metric and found["trials"]["failed"] == 0 and found["front"]
    check_front(found["front"], metric, lower=kind == "regression")
    best = found["front"][0]
    model, data = task.model().eval(), task.load(None, 0)
    load_weights(model, folder / "mlflow_runs" / "models" / "walk" / f"trial-{best['trial']}.safetensors")
    with torch.no_grad():
        assert best[metric] == pytest.approx(sklearns(kind, model(data.validation.x), data.validation.y), abs=1e-6)
        assert best[f"test_{metric}"] == pytest.approx(sklearns(kind, model(data.test.x), data.test.y), abs=1e-6)
    report, _ = ttq(folder, "report", "walk")
    assert report["pick"][metric] is not None and task.score.label in (folder / report["report"]).read_text()
    made = exported(folder, name, best["trial"])
    for form in ("onnx", "onnx-int2"):
        assert made[form][metric] == pytest.approx(best[metric], abs=0.01), form
    check_mlflow(folder, model, data.test.x[:16])


def exported(folder, name, trial):
    """The member in every form, by one fresh interpreter; what each export printed."""
    words = [["export", "walk", "--trial", str(trial), "--to", form, "--task", name, "--out", f"out-{form}", "--json"]
             for form in FORMS]  # fmt: skip
    code = f"from ttq_plugin.cli import cli\nfor words in {words!r}:\n    cli(words, standalone_mode=False)\n"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TTQ_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    printed, found = done.stdout, {}
    while printed.strip():
        made, end = json.JSONDecoder().raw_decode(printed := printed.lstrip())
        found[made["to"]], printed = made, printed[end:]
    assert set(found) == set(FORMS) and all((folder / f"out-{form}").exists() for form in FORMS)
    return found


def check_front(rows, metric, *, lower):
    """No member of the front is at least as good as another in everything and better in something."""
    names = [metric, "cr_gain_total", "ec_gain_total"]
    vectors = [[(-row[n] if lower and n == metric else row[n]) for n in names] for row in rows]
    for one in vectors:
        assert not any(all(b >= a for a, b in zip(one, two, strict=True)) and two != one for two in vectors)
    assert vectors[0][0] == max(vector[0] for vector in vectors), "best first"


def check_mlflow(folder, model, x):
    """The MLflow model runs where neither the user's module nor torch is there, and gives the model's outputs."""
    with torch.no_grad():
        expected = model(x).numpy()
    np.save(folder / "x.npy", x.numpy())
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    code = (
        "import sys, mlflow, numpy as np\n"
        f"model = mlflow.pyfunc.load_model({str(folder / 'out-mlflow')!r})\n"
        f"np.save({str(folder / 'y.npy')!r}, model.predict(np.load({str(folder / 'x.npy')!r})))\n"
        "assert not [name for name in sys.modules if name.startswith('own_') or name == 'torch']\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert np.abs(np.load(folder / "y.npy") - expected).max() < 1e-5
