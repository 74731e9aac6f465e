"""Tasks of one's own through compress, export, bench and MLflow: the module lies in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ttq_plugin import cli
from ttq_plugin.deploy.bench import bench as bench_module
from ttq_plugin.deploy.file.packed import packed_info
from ttq_plugin.deploy.mlflow.pyfunc import save_model
from ttq_plugin.deploy.onnx.dense import OnnxModule
from ttq_plugin.deploy.source import open_model
from ttq_plugin.errors import InputError
from ttq_plugin.support.inputs import call
from ttq_plugin.support.weights import read_metadata, save_weights

OWN = """
import torch
from pathlib import Path
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from ttq_plugin.tasks.task import Data, Recipe, Split, Task

Path(__file__).with_name("imported").touch()


def blobs(seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(180) % 3
    return 2 * torch.randn(3, 8, generator=generator)[y] + torch.randn(180, 8, generator=generator), y


def splits(x, y):
    return Data(*(Split({k: v[i : i + 60] for k, v in x.items()} if type(x) is dict else x[i : i + 60], y[i : i + 60])
                  for i in (0, 60, 120)))


def net(outputs=3):
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, outputs))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.left, self.head = nn.Embedding(5, 8), nn.Linear(8, 16), nn.Linear(24, 3)

    def forward(self, signal, token):
        both = torch.cat([torch.relu(self.left(signal)), self.words(token)], 1)
        return {"logits": self.head(both), "token": token}


def load_branches(source, seed):
    x, y = blobs(seed)
    return splits({"signal": x, "token": torch.arange(180) * 7 % 5}, y)


def load_squares(source, seed):
    x, _ = blobs(seed)
    return splits(x, x[:, :1] ** 2)


def by_logits(outputs, y):
    return cross_entropy(outputs["logits"], y)


R = Recipe(epochs=2, lr=1e-2)
CLASSIFIER = Task("a", "three blobs", lambda source, seed: splits(*blobs(seed)), net, cross_entropy, R)
BRANCHES = Task("b", "a signal and a token", load_branches, Branches, by_logits, R, metric="macro_f1")
SQUARES = Task("c", "a square", load_squares, lambda: net(1), mse_loss, R, metric="rmse")
"""

SPACE = """
task: deploy_mine:CLASSIFIER
objectives: [mcc, cr_gain_total, ec_gain_total]
trials: 3
parameters: {lr: {low: 1.0e-3, high: 4.0e-3}, lr_scale: 1.0e-3, lr_threshold: 1.0e-3, epochs: 1, share: 1.0}
methods:
  ttq: {t: {low: 0.02, high: 0.3}}
"""

METRICS = {"CLASSIFIER": "mcc", "BRANCHES": "macro_f1", "SQUARES": "rmse"}
TASKS = list(METRICS)


def named(task):
    return f"deploy_mine:{task}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder: a module, and a packed file of each of its tasks."""
    path, before = tmp_path_factory.mktemp("user"), os.getcwd()
    (path / "deploy_mine.py").write_text(OWN)
    sys.path.append(str(path))
    os.chdir(path)
    for task in TASKS:
        run("compress", named(task), "--epochs", 1, "--out", f"{task}.safetensors", "--cache", path / "cache")
    os.chdir(before)
    yield path
    sys.path.remove(str(path))
    del sys.modules["deploy_mine"]


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def run(*arguments):
    """What the command prints; what it raises is raised."""
    result = CliRunner().invoke(cli.cli, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def python(code, cwd):
    """A fresh interpreter, in which the user's module is nowhere to be found."""
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def outputs(model, x):
    with torch.inference_mode():
        return call(model, x)


@pytest.mark.parametrize("task", TASKS)
def test_onnx_forms_are_compared_by_the_tasks_metric(here, tmp_path, task):
    metric, file = METRICS[task], here / f"{task}.safetensors"
    for form in ("onnx", "onnx-int2", "onnx-int8"):
        target = tmp_path / f"{form}.onnx"
        result = json.loads(run("export", file, "--to", form, "--task", named(task), "--out", target, "--json"))
        assert (result["metric"], result["samples"], result["validation"]) == (metric, 60, True)
        assert result["max_difference"] < (1e-5 if form != "onnx-int8" else 1)
        assert result["bytes"] == target.stat().st_size
        written = packed_info(file).report[metric]
        assert result[f"{metric}_torch"] == pytest.approx(written, rel=1e-5, abs=1e-6)
        if form != "onnx-int8":
            assert result[metric] == pytest.approx(written, rel=1e-4, abs=1e-6)
    import onnx

    source = open_model(file, named(task))
    x = source.data(needed=True).test.x
    expected = outputs(source.model, x)
    found = call(OnnxModule(onnx.load(tmp_path / "onnx-int2.onnx"), unpack=True), x)
    if task == "BRANCHES":
        assert torch.equal(found["token.output"], expected["token"])
        found, expected = found["logits"], expected["logits"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_packed_again_is_the_same_model_and_says_its_task_for_people(here, tmp_path, task):
    file, target = here / f"{task}.safetensors", tmp_path / "p.safetensors"
    run("export", file, "--to", "packed", "--task", named(task), "--out", target)
    info = packed_info(target)
    assert info.task is None and info.more["task"] == named(task) and info.report == packed_info(file).report
    one, other = (open_model(path, named(task)).model.state_dict() for path in (file, target))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_c_of_a_network_of_ones_own(here, tmp_path):
    for task in ("CLASSIFIER", "SQUARES"):
        file = here / f"{task}.safetensors"
        run("export", file, "--to", "c", "--task", named(task), "--out", tmp_path / task, "--name", "mine")
        assert named(task) in (tmp_path / task / "mine.h").read_text()


@pytest.mark.parametrize("task", TASKS)
def test_an_mlflow_model_loads_where_the_module_is_not(here, tmp_path, task):
    """By MLflow and onnxruntime alone: neither this package nor torch is needed, nor a pickle."""
    file, target = here / f"{task}.safetensors", tmp_path / "m"
    run("export", file, "--to", "mlflow", "--task", named(task), "--out", target)
    assert not [p for p in target.rglob("*") if p.suffix in (".pkl", ".pickle", ".pt", ".pth")]
    source = open_model(file, named(task))
    x = source.data(needed=True).test.x
    expected = outputs(source.model, x)
    given = {name: tensor.numpy() for name, tensor in (x if isinstance(x, dict) else {"x": x}).items()}
    np.savez(tmp_path / "x.npz", **given)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        "import sys, mlflow, numpy as np\n"
        f"model = mlflow.pyfunc.load_model({str(target)!r})\n"
        f"x = dict(np.load({str(tmp_path / 'x.npz')!r}))\n"
        "x = x if len(x) > 1 else x['x']\n"
        "y = model.predict(x)\n"
        f"np.savez({str(tmp_path / 'y.npz')!r}, **(y if isinstance(y, dict) else {{'y': y}}))\n"
        "assert model.predict(model.input_example) is not None\n"
        "wrong = {k: v[..., :3] if v.ndim > 1 else v for k, v in x.items()} if isinstance(x, dict) else x[:, :3]\n"
        "try:\n    model.predict(wrong)\nexcept mlflow.exceptions.MlflowException:\n    print('refused')\n"
        "assert not {'deploy_mine', 'ttq_plugin', 'torch'} & set(sys.modules)\n"
        "try:\n    import deploy_mine\nexcept ModuleNotFoundError:\n    print('absent')\n"
    )
    assert python(code, elsewhere).split() == ["refused", "absent"]
    found = np.load(tmp_path / "y.npz")
    if task == "BRANCHES":
        assert np.array_equal(found["token.output"], x["token"].numpy())
    logits = expected["logits"] if isinstance(expected, dict) else expected
    assert np.abs(found["logits" if task == "BRANCHES" else "y"] - logits.numpy()).max() < 1e-5


def test_an_mlflow_model_of_a_network_with_positional_inputs_has_named_columns(tmp_path):
    import mlflow

    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def forward(self, left, right):
            return self.layer(left) + right, left.sum(1)

    model, x = Sum().eval(), (torch.randn(5, 4), torch.randn(5, 2))
    save_model(model, tmp_path / "m", example=x)
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "m"))
    assert loaded.metadata.get_input_schema().input_names() == ["left", "right"]
    found = loaded.predict({"left": x[0].numpy(), "right": x[1].numpy()})
    for array, tensor in zip(found.values(), outputs(model, x), strict=True):
        assert np.abs(array - tensor.numpy()).max() < 1e-5


def test_a_network_whose_graph_would_differ_gets_no_mlflow_model(tmp_path):
    class Branching(torch.nn.Module):
        def forward(self, x):
            return x * 2 if bool(x.sum() > 0) else x * 3

    with pytest.raises(InputError, match="cannot be exported to ONNX|does not reproduce its outputs"):
        save_model(Branching().eval(), tmp_path / "m", example=torch.ones(2, 3))
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("task", TASKS)
def test_bench_by_the_tasks_metric(here, tmp_path, monkeypatch, task):
    monkeypatch.setattr(bench_module, "BLOCK_SECONDS", 0.001)
    monkeypatch.setattr(bench_module, "LEAST_TURNS", 2)
    metric, file = METRICS[task], here / f"{task}.safetensors"
    given = ("bench", file, "--task", named(task), "--batch", 3, "--seconds", 0.005, "--store", tmp_path / "runs")
    result = json.loads(run(*given, "--json"))
    forms = {row["form"]: row for row in result["forms"]}
    integers = "ttq runtime integer" in forms
    told = any(note.startswith("the integer runtime was not measured: ") for note in result["notes"])
    assert integers != told and (integers or task == "BRANCHES")
    assert len(forms) == 5 + integers and result["metric"] == metric and result["task"] == named(task)
    for name, row in forms.items():
        assert row["peak_memory_bytes"] is None or row["peak_memory_bytes"] > 0
        if "int8" not in name and "integer" not in name:
            assert row["max_relative_difference"] < 1e-4
            assert row[metric] == pytest.approx(packed_info(file).report[metric], rel=1e-4, abs=1e-6)
    assert forms["torch fp32"]["peak_memory_bytes"] is not None, "the child imports the task that the user named"


def test_a_file_never_makes_code_be_imported(here, tmp_path):
    """The command is printed; nothing is imported, not even by a file that names a module of this folder."""
    file, mark = here / "CLASSIFIER.safetensors", here / "imported"
    mark.unlink(missing_ok=True)
    command = [sys.executable, "-m", "ttq_plugin.cli"]
    done = subprocess.run([*command, "export", file, "--to", "onnx"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and not mark.exists()
    said = f"`ttq export {file} --to onnx --task deploy_mine:CLASSIFIER`."
    assert done.stderr.startswith("Error: ") and done.stderr.strip().endswith(said) and done.stderr.count("\n") == 1
    with pytest.raises(InputError, match="name the task yourself: `ttq bench "):
        run("bench", file, "--store", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_another_task_than_the_files_is_refused(here, tmp_path):
    file = here / "CLASSIFIER.safetensors"
    with pytest.raises(InputError, match="--task must name the same, got 'mnist-cnn'"):
        run("export", file, "--to", "onnx", "--task", "mnist-cnn")
    with pytest.raises(InputError, match="its 2.bias is float32 1|its 2.bias is "):
        run("export", file, "--to", "onnx", "--task", named("SQUARES"))
    bare = tmp_path / "bare.safetensors"
    save_weights(open_model(file, named("CLASSIFIER")).model, bare)
    with pytest.raises(InputError, match="must name a built-in task, but it names none"):
        run("export", bare, "--to", "onnx")
    assert json.loads(run("export", bare, "--to", "onnx", "--task", named("CLASSIFIER"), "--json"))["samples"] == 60


@pytest.fixture(scope="module")
def study(folder):
    """`ttq search` of an own task, in the user's folder."""
    (folder / "space.yaml").write_text(SPACE)
    command = [sys.executable, "-m", "ttq_plugin.cli", "search", "space.yaml", "--task", named("CLASSIFIER")]
    done = subprocess.run(
        [*command, "--study", "a/b", "--workers", "1", "--cache", "cache", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_front_member_is_exported_by_its_number(here, study, tmp_path):
    number = study["front"][0]["trial"]
    words = ("export", "a/b", "--trial", number, "--to", "onnx")
    with pytest.raises(
        InputError, match=r"nor a database makes .* --trial \d --to onnx --task deploy_mine:CLASSIFIER`"
    ):
        run(*words)
    with pytest.raises(
        InputError, match="searches deploy_mine:CLASSIFIER, and the task named beside it must be the same"
    ):
        run(*words, "--task", named("SQUARES"))
    given = ("--task", named("CLASSIFIER"), "--json")
    result = json.loads(run(*words, *given))
    assert result["path"] == f"a%2Fb-trial-{number}.onnx" and Path(result["path"]).is_file()
    assert result["mcc_torch"] == pytest.approx(study["front"][0]["mcc"], abs=1e-6)
    file = here / "mlflow_runs" / "models" / "a%2Fb" / f"trial-{number}.safetensors"
    about = read_metadata(file)
    assert (about["task"], about["seed"]) == (named("CLASSIFIER"), "0")
    assert json.loads(about["settings"])["method"] == "ttq"
    again = json.loads(run("export", file, "--to", "onnx", "--out", tmp_path / "x.onnx", *given))
    assert again["mcc_torch"] == result["mcc_torch"]
    with pytest.raises(InputError, match="There is no finished trial 77 of the study 'a/b'; the front has"):
        run("export", "a/b", "--trial", 77, "--to", "onnx", *given)
    front = {row["trial"] for row in study["front"]}
    for gone in {0, 1, 2} - front:
        with pytest.raises(InputError, match="were removed when another trial dominated it.*`OMP_NUM_THREADS=1 ttq"):
            run("export", "a/b", "--trial", gone, "--to", "onnx", *given)


def test_front_members_of_ones_own_are_mlflow_models(here, study):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{here}/mlflow_runs/mlflow.db")
    experiment = client.get_experiment_by_name("a/b")
    models = client.search_logged_models([experiment.experiment_id])
    assert {model.name for model in models} == {f"trial-{row['trial']}" for row in study["front"]}
    code = (
        "import mlflow, numpy as np\n"
        f"model = mlflow.pyfunc.load_model({models[0].artifact_location!r})\n"
        "print(model.predict(np.zeros((4, 8), np.float32)).shape)\n"
    )
    assert python(code, "/").strip() == "(4, 3)"
