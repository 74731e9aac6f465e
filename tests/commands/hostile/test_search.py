"""A real search with hostile names of its study, layers and folder, read back from everything that keeps them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from tests.commands.hostile.test_layers import acceptable
from tests.conftest import ROOT
from tests.support.hostile import Page, everything, long, names, typed
from ttq_plugin.search.study.ledger import finished
from ttq_plugin.search.study.study import load_study
from ttq_plugin.support.names import file_name
from ttq_plugin.tracking import open_store

TASK = """
import torch, torch.nn.functional as F
from torch import nn
from ttq_plugin.tasks.task import Data, Recipe, Split, Task

LAYER = {layer!r}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        setattr(self, LAYER, nn.Linear(6, 8))
        setattr(self, LAYER + "2", nn.Linear(8, 3))

    def forward(self, x):
        first, second = self.children()
        return second(first(x).relu())

def load(source, seed):
    x = torch.randn(120, 6, generator=torch.Generator().manual_seed(1))
    return Data(*(Split(x[i::3], x[i::3, :3].argmax(1)) for i in range(3)))

TASK = Task("own", "layers of any name", load, Net, F.cross_entropy, Recipe(epochs=1, lr=1e-2))
"""
SPACE = """
task: mine:TASK
objectives: [mcc, cr_gain_total]
parameters: {lr: 1.0e-2, lr_scale: 1.0e-3, lr_threshold: 1.0e-3, epochs: 1, share: 1.0}
methods: {twn: {t: {low: 0.3, high: 0.7}}}
"""


def searched(tmp_path_factory, capfd, folder, study, layer):
    here = tmp_path_factory.mktemp("around") / folder
    here.mkdir()
    (here / "mine.py").write_text(TASK.format(layer=layer), encoding="utf-8")
    (here / "space.yaml").write_text(SPACE)
    words = ["search", "space.yaml", "--task", "mine:TASK", "--cache", "cache", "--trials", "1", "--workers", "1"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TTQ_", "MLFLOW_"))}
    done = subprocess.run(
        [sys.executable, "-m", "ttq_plugin", *words, "--seed", "1", "--json", f"--study={study}"],
        cwd=here, env=kept | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [member] = json.loads(done.stdout)["front"]
    with contextlib.chdir(here):
        [trial] = finished(load_study("sqlite:///mlflow_runs/studies.db", study))
        assert trial.state == "complete" and trial.number == member["trial"] == 0
        with safe_open(here / f"mlflow_runs/models/{file_name(study)}/trial-0.safetensors", "pt") as file:
            assert {f"{layer}.weight", f"{layer}2.weight"} < set(file.keys())
        store = open_store("mlflow_runs")
        found = store.client.get_experiment_by_name(study)
        runs = store.client.search_runs([found.experiment_id])
        [recorded] = [run.data.metrics["mcc"] for run in runs if run.data.tags.get("trial") == "0"]
        assert recorded == pytest.approx(trial.metrics["mcc"], abs=1e-6)
        assert store.client.get_experiment("0").artifact_location == (here / "mlruns" / "0").as_uri()
        told = typed(capfd, "report", "--out", "page.html", "--", study)
        page = Page((here / "page.html").read_text(encoding="utf-8"))
        assert told.code == 0 and study in page.title
    assert {path.split("/")[0] for path in everything(here.parent)} == {folder}
    assert {path.name for path in here.iterdir()} <= {
        *("mine.py", "space.yaml", "cache", "mlflow_runs", "page.html", "__pycache__")
    }


def test_a_search_of_hostile_names_is_read_back(tmp_path_factory, capfd, monkeypatch):
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    folder = 'it\'s "a" $(touch GONE); `x` 名 #1 {x'
    searched(tmp_path_factory, capfd, folder, "-s'\"><b>$(x) {0} %s [/b]; 名/..", "*/ [b]$(x) <i>%s{x}'| 名")


folders = names.filter(
    lambda name: (
        name not in ("", ".", "..")
        and "/" not in name
        and "\0" not in name
        and not set(name) & set("?%")
        and len(name.encode(errors="replace")) < 200
    )
)


@pytest.mark.long
def test_many_searches_of_hostile_names(tmp_path_factory, capfd):
    def check(folder, study, layer):
        sys.modules.pop("mine", None)
        searched(tmp_path_factory, capfd, folder, study, layer)

    drawn = st.sampled_from(["a b", "x/y", "$(x)", "<i>", "名", "-x", "a'b", "100%"])
    long(15)(given(folders, drawn, names.filter(acceptable))(check))()
