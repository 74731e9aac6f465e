"""The MLflow model: the same outputs as the module, in a fresh process, without a pickle."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from tests.deploy.nets import made
from ttq_plugin.deploy.mlflow.pyfunc import log_model, save_model
from ttq_plugin.errors import InputError
from ttq_plugin.support.weights import save_weights
from ttq_plugin.tasks import get_task
from ttq_plugin.tracking import open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(tmp_path_factory.mktemp("store") / "runs")


def test_a_logged_model_gives_the_modules_outputs(tmp_path, store):
    """Logged to a run of a real store, then loaded by MLflow's own loader in a process that imports nothing of ours."""
    model, samples = made("mnist-cnn"), get_task("mnist-cnn").load(None, 0).test.x[:50]
    experiment = store.client.create_experiment("works", artifact_location=store.artifacts)
    run = store.client.create_run(experiment, tags={"mlflow.runName": "member"})
    store.client.log_param(run.info.run_id, "method", "pttq")
    model_id = log_model(store.client, run.info.run_id, model, "mnist-cnn")

    [output] = store.client.get_run(run.info.run_id).outputs.model_outputs
    logged = store.client.get_logged_model(model_id)
    assert output.model_id == model_id and logged.status == "READY" and logged.params == {"method": "pttq"}
    names = [p.name for p in Path(logged.artifact_location.removeprefix("file://")).rglob("*") if p.is_file()]
    assert any(name.endswith(".safetensors") for name in names)
    assert not any(name.endswith((".pkl", ".pickle", ".pt", ".pth")) for name in names)

    np.save(tmp_path / "x.npy", samples.numpy())
    code = (
        "import mlflow, numpy as np\n"
        f"mlflow.set_tracking_uri({store.uri!r})\n"
        f"model = mlflow.pyfunc.load_model('models:/{model_id}')\n"
        "assert model.metadata.get_input_schema().inputs[0].shape == (-1, 1, 20, 20)\n"
        "assert model.metadata.get_output_schema().inputs[0].shape == (-1, 10)\n"
        f"x = np.load({str(tmp_path / 'x.npy')!r})\n"
        "assert model.predict(model.input_example).shape == (1, 10)\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, model.predict(x))\n"
        "try:\n    model.predict(x[:, :, :19])\nexcept mlflow.exceptions.MlflowException:\n    print('refused')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "refused" in result.stdout
    with torch.inference_mode():
        assert np.array_equal(np.load(tmp_path / "y.npy"), model(samples).numpy())


def test_a_model_of_two_inputs_takes_them_by_name(tmp_path):
    task = get_task("esr-hybrid")
    torch.manual_seed(0)
    model, samples = task.model().eval(), task.noise(5)
    save_model(model, tmp_path / "m", "esr-hybrid")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "m"))
    named = dict(zip(("signal", "picture"), (part.numpy() for part in samples), strict=True))
    shapes = {part.name: part.shape for part in loaded.metadata.get_input_schema().inputs}
    assert shapes == {"signal": (-1, 1, 178), "picture": (-1, 1, 32, 37)}
    with torch.inference_mode():
        assert np.array_equal(loaded.predict(named), model(*samples).numpy())


def test_what_cannot_be_saved(tmp_path):
    model = made("mnist-cnn")
    with pytest.raises(InputError, match="a module needs the name of its task"):
        save_model(model, tmp_path / "m")
    save_weights(model, tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match="must name a built-in task, but it names none; `ttq compress --out` writes"):
        save_model(tmp_path / "bare.safetensors", tmp_path / "m")
    save_weights(model, tmp_path / "odd.safetensors", {"task": "esr-2dcnn"})
    with pytest.raises(InputError, match="holds weights of another architecture than CNN2D"):
        save_model(tmp_path / "odd.safetensors", tmp_path / "m")
    assert not (tmp_path / "m").exists()
    with pytest.raises(InputError, match="needs a new folder"):
        save_model(model, tmp_path, "mnist-cnn")


def test_a_model_that_cannot_be_logged_is_marked_failed(store):
    experiment = store.client.create_experiment("fails", artifact_location=store.artifacts)
    run = store.client.create_run(experiment)
    with pytest.raises(InputError, match="must be one of"):
        log_model(store.client, run.info.run_id, made("mnist-cnn"), "cifar")
    [logged] = store.client.search_logged_models([experiment])
    assert logged.status == "FAILED"


def test_a_disk_that_fills_up_while_mlflow_copies_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    model = made("mnist-cnn")
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match=r"new/model cannot be written \(No space left on device\); choose another"):
        save_model(model, tmp_path / "new/model", "mnist-cnn")
    assert not any(tmp_path.iterdir())
