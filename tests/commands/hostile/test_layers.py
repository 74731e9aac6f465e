"""Layers of any name: refused before anything is trained, or kept by every file, graph and page that names them."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess

import onnx
import pytest
import torch
from hypothesis import example, given
from safetensors import safe_open
from torch import nn

from tests.commands import own_layers
from tests.support.hostile import CONTROL, everything, long, names, tried, typed
from ttq_plugin import InputError, ternarize
from ttq_plugin.support.names import check_module_names, in_comment, in_markdown, metric_key
from ttq_plugin.support.weights import load_weights, save_weights
from ttq_plugin.tracking import open_store

TASK = "tests.commands.own_layers:TASK"
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wcomment", "-Wtrigraphs", "-Wbidi-chars=any", "-fsyntax-only"]


@pytest.fixture
def layers(monkeypatch):
    """Renames the layers of the task's model."""
    return lambda name: monkeypatch.setattr(own_layers, "NAMES", [name, f"{name}2"])


def acceptable(name):
    """Whether a state dict can keep a layer of that name, and torch's graphs can."""
    return name != "" and not re.search(r"[.\"\\\t\n\u2028\u2029]", name) and not CONTROL.search(name)


def compressed(layers, tmp_path_factory, capfd, name):
    """Train, compress and export a model with such layers."""
    place = tmp_path_factory.mktemp("layers") / "here"
    place.mkdir()
    layers(name)
    with contextlib.chdir(place):
        trained = typed(capfd, "train", TASK, "--cache", "cache", "--out", "w.safetensors")
        if not acceptable(name):
            assert trained.code == 2 and "the name of a module's part must not" in trained.err
            assert everything(place) == set()
            return
        assert trained.code == 0, trained
        words = ("--epochs", "1", "--share", "0.2", "--cache", "cache", "--out", "p.safetensors", "--json")
        made = typed(capfd, "compress", TASK, *words)
        assert made.code == 0 and set(json.loads(made.out)["layers"]) <= set(own_layers.NAMES)
        told = typed(capfd, "compress", TASK, *words[:-1])
        assert any(f"pttq on {each}" in told.out for each in own_layers.NAMES)
        for form in ("c", "c-int8", "onnx"):
            exported = typed(capfd, "export", "p.safetensors", "--to", form, "--task", TASK)
            assert exported.code == 0, exported
        for folder in ("p-c", "p-c-int8"):
            file = place / folder / "model.c"
            subprocess.run([shutil.which("gcc"), *STRICT, file], check=True, capture_output=True)
            assert in_comment(name) in file.read_text()
        graph = onnx.load("p.onnx").graph
        assert f"{name}.weight" in {tensor.name for tensor in graph.initializer}
        with safe_open("w.safetensors", framework="pt") as file:
            assert {f"{each}.{kind}" for each in own_layers.NAMES for kind in ("weight", "bias")} == set(file.keys())
    found = {path.split("/")[0] for path in everything(place)}
    assert found == {"cache", "w.safetensors", "p.safetensors", "p-c", "p-c-int8", "p.onnx"}
    assert everything(place.parent) - {f"here/{path}" for path in everything(place)} == {"here"}


def test_layers_of_any_name(layers, tmp_path_factory, capfd):
    check = given(names)(lambda name: compressed(layers, tmp_path_factory, capfd, name))
    for name in ("*/ int x; /* [/b]$(x) <i>%s{x}'|", "名 /??/", "a.b", 'a"b', "\x1b[2J"):
        check = example(name)(check)
    tried(1)(check)()


@pytest.mark.long
def test_many_layers_of_any_name(layers, tmp_path_factory, capfd):
    long(60)(given(names)(lambda name: compressed(layers, tmp_path_factory, capfd, name)))()


@pytest.mark.parametrize("name", ["", "a.b", "a\nb", 'a"b', "a\\b", "\ud800", "\u202ea"])
def test_names_that_nothing_keeps_are_refused_by_every_way_in(name):
    net = nn.Sequential(nn.Linear(4, 4))
    setattr(net, name, nn.Linear(4, 4))
    for way in (check_module_names, lambda model: ternarize(model, ["0"])):
        with pytest.raises(InputError, match="the name of a module's part must not be empty, nor hold a dot"):
            way(net)
    assert not hasattr(net[0], "parametrizations")


def test_weights_with_such_a_name_are_refused_before_the_file_is_written(tmp_path):
    net = nn.Sequential(nn.Linear(4, 4))
    setattr(net, "a.b", nn.Linear(4, 4))
    with pytest.raises(InputError, match="the name of a module's part"):
        save_weights(net, tmp_path / "w.safetensors")
    save_weights(nn.Sequential(nn.Linear(4, 4)), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="the name of a module's part"):
        load_weights(net, tmp_path / "w.safetensors")


def test_an_analysis_of_layers_of_any_name_is_logged_and_chosen_from(layers, tmp_path, monkeypatch, capfd):
    """Metrics and tags of different layers differ, the note shows the name, and the written config selects it."""
    name = "[x](y) <b>*_$|%/ 名"
    layers(name)
    monkeypatch.chdir(tmp_path)
    words = ["--cache", "cache", "--out", "config.json", "--plot", "p.png", "--include", name, "--budget", "0.1"]
    told = typed(capfd, "sensitivity", TASK, *words, "--probes", "2")
    assert told.code == 0 and name in told.out and f"{name}2" in told.out
    store = open_store("mlflow_runs")
    [run] = store.client.search_runs([store.client.get_experiment_by_name(f"{TASK} sensitivity").experiment_id])
    assert {f"trace/{metric_key(each)}" for each in own_layers.NAMES} <= set(run.data.metrics)
    assert {f"method.{metric_key(each)}" for each in own_layers.NAMES} <= set(run.data.tags)
    assert name not in run.data.tags.get("mlflow.note.content", "") and in_markdown(name) != name
    done = typed(capfd, "compress", TASK, "--config", "config.json", "--epochs", "1", "--cache", "cache", "--json")
    assert done.code == 0 and name in json.loads(done.out)["layers"]
    assert torch.isfinite(torch.tensor(json.loads(done.out)["mcc"]))
