"""``ttq export``: each form from a packed and from a plain file, what it says, what it refuses."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess

import pytest
import torch
from click.testing import CliRunner

from tests.deploy.nets import made
from ttq_plugin import cli
from ttq_plugin.deploy.file.packed import load_packed, packed_info, save_packed
from ttq_plugin.errors import InputError
from ttq_plugin.support.weights import save_weights


def run(*arguments):
    """What the command prints; what it raises is raised."""
    result = CliRunner().invoke(cli.cli, ["export", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same model, packed and plain, in a folder."""
    folder, model = tmp_path_factory.mktemp("models"), made("mnist-cnn")
    save_packed(model, folder / "m.safetensors", task="mnist-cnn", method="pttq", report={"srqw": 0.9})
    save_weights(model, folder / "plain.safetensors", {"task": "mnist-cnn"})
    return model, folder


def test_onnx_from_a_packed_file(files):
    _, folder = files
    value = json.loads(run(folder / "m.safetensors", "--to", "onnx-int2", "--json"))
    assert value["path"] == str(folder / "m-int2.onnx") and value["bytes"] == (folder / "m-int2.onnx").stat().st_size
    assert value["max_difference"] < 1e-5 and value["validation"] and value["samples"] == 1000
    assert value["mcc"] == value["mcc_torch"]


def test_packed_from_both(files):
    model, folder = files
    text = run(folder / "plain.safetensors", "--to", "packed", "--out", folder / "p.safetensors")
    assert f"packed: {folder / 'p.safetensors'}, {(folder / 'p.safetensors').stat().st_size} bytes" in text
    run(folder / "m.safetensors", "--to", "packed")
    info = packed_info(folder / "m-packed.safetensors")
    assert (info.task, info.method, info.report) == ("mnist-cnn", "pttq", {"srqw": 0.9})
    for name in ("p", "m-packed"):
        twin = load_packed(folder / f"{name}.safetensors")
        assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))


@pytest.mark.filterwarnings("error:.*Add type hints")
def test_mlflow_without_a_word_from_mlflow(files, capfd):
    _, folder = files
    text = run(folder / "m.safetensors", "--to", "mlflow")
    assert text.startswith(f"mlflow: {folder / 'm-mlflow'}, ") and capfd.readouterr().err == ""
    assert (folder / "m-mlflow" / "MLmodel").is_file()
    with pytest.raises(InputError, match="needs a new folder"):
        run(folder / "m.safetensors", "--to", "mlflow")


@pytest.mark.service
def test_c_by_the_command_runs_as_torch_does(files, tmp_path):
    """Compiled as strictly as the exports' own tests compile."""
    model, folder = files
    compiler = shutil.which("gcc") or pytest.fail("gcc is missing; .ci/run says which Debian package has it")
    target = tmp_path / "device"
    value = json.loads(run(folder / "m.safetensors", "--to", "c", "--name", "digits", "--out", target, "--json"))
    assert value["files"] == [str(target / "digits.h"), str(target / "digits.c")]
    assert 0 < value["constant_bytes"] < 4 * 9840
    library = tmp_path / "digits.so"
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC"]
    subprocess.run([compiler, *strict, "-o", library, target / "digits.c", "-lm"], check=True)
    x, out = torch.randn(1, 20, 20), torch.empty(10)
    ctypes.CDLL(str(library)).digits_run(ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(out.data_ptr()))
    with torch.inference_mode():
        assert torch.allclose(out, model(x.unsqueeze(0))[0], atol=1e-4)


def test_refused(files, tmp_path):
    _, folder = files
    with pytest.raises(InputError, match="--device must be cpu"):
        run(folder / "m.safetensors", "--to", "c", "--device", "cuda")
    with pytest.raises(InputError, match=r"the weights .*nowhere do not exist"):
        run(tmp_path / "nowhere", "--to", "onnx")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(InputError, match="is damaged or not a safetensors file"):
        run(tmp_path / "text.safetensors", "--to", "onnx")
    with pytest.raises(InputError, match="--out must differ from the path of the model"):
        run(folder / "m.safetensors", "--to", "packed", "--out", folder / "m.safetensors")
    with pytest.raises(InputError, match="cannot be written"):
        run(folder / "m.safetensors", "--to", "packed", "--out", folder)
    save_weights(made("esr-cnn-transformer"), tmp_path / "e.safetensors", {"task": "esr-cnn-transformer"})
    with pytest.raises(InputError, match="the Epileptic Seizure Recognition CSV|CSV"):
        run(tmp_path / "e.safetensors", "--to", "onnx-int8", "--data", tmp_path / "no.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.safetensors", "text.safetensors"]


@pytest.mark.service
def test_integer_c_by_the_command_computes_the_modules_integers(files, tmp_path):
    """The test program's samples; the score is that of the integers; flash and memory are told."""
    _, folder = files
    compiler = shutil.which("gcc") or pytest.fail("gcc is missing; .ci/run says which Debian package has it")
    target = tmp_path / "device"
    value = json.loads(run(folder / "m.safetensors", "--to", "c-int8", "--name", "digits", "--out", target, "--json"))
    assert value["files"] == [str(target / f"digits{ending}") for ending in (".h", ".c", "_test.c")]
    assert set(value["flash"]) == {"cortex-m0", "cortex-m3"} and value["constant_bytes"] < value["flash"]["cortex-m3"]
    assert value["ram"] == value["static_bytes"] < 2000 and value["calibration"] in {"mse", "percentile"}
    assert abs(value["mcc"] - value["mcc_torch"]) < 0.1
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-O2"]
    subprocess.run(
        [compiler, *strict, "-o", target / "test", target / "digits.c", target / "digits_test.c"], check=True
    )
    subprocess.run([target / "test"], check=True)
    text = run(folder / "m.safetensors", "--to", "c-int8", "--out", tmp_path / "again")
    assert "bytes of constants" in text and "on cortex-m0" in text and "MCC" in text
