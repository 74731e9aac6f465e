"""``ttq bench``: what it measures is what is there, and all of it is in the table, the JSON and MLflow."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from mlflow import MlflowClient

from tests.deploy.nets import made
from ttq_plugin import cli
from ttq_plugin.deploy.bench import bench as bench_module
from ttq_plugin.deploy.bench.bench import INT8, INTEGER, ONNX, RUNTIME, RUNTIME8, TORCH
from ttq_plugin.deploy.bench.energy import counters, joules
from ttq_plugin.deploy.bench.example_file import read_example, write_example
from ttq_plugin.deploy.bench.footprint import peak_memory
from ttq_plugin.deploy.file.packed import save_packed
from ttq_plugin.errors import InputError
from ttq_plugin.support.weights import save_weights


def run(*arguments):
    """What the command prints; what it raises is raised."""
    result = CliRunner().invoke(cli.cli, ["bench", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "m.safetensors"
    save_packed(made("mnist-cnn"), path, task="mnist-cnn", method="pttq", report={"srqw": 0.9})
    return path


@pytest.fixture
def short(monkeypatch):
    """Blocks so short that a test can wait for them."""
    monkeypatch.setattr(bench_module, "BLOCK_SECONDS", 0.002)


@pytest.mark.usefixtures("short")
def test_the_table_the_json_and_mlflow_agree(packed, tmp_path):
    store, picture = tmp_path / "runs", tmp_path / "bench.png"
    value = json.loads(
        run(
            *(packed, "--batch", 1, "--batch", 5, "--seconds", 0.02, "--store", store),
            *("--plot", picture, "--out", tmp_path / "bench.json", "--json"),
        )
    )
    link = value.pop("link")
    assert json.loads((tmp_path / "bench.json").read_text()) == value
    forms = {row["form"]: row for row in value["forms"]}
    assert list(forms) == [RUNTIME, RUNTIME8, INTEGER, TORCH, ONNX, INT8]
    assert forms[RUNTIME]["file_bytes"] == packed.stat().st_size
    assert forms[RUNTIME]["max_relative_difference"] < 1e-5 > forms[ONNX]["max_relative_difference"]
    assert forms[RUNTIME]["mcc"] == forms[TORCH]["mcc"] is not None
    assert forms[INT8]["file_bytes"] < forms[ONNX]["file_bytes"] > 4 * 9840
    for row in forms.values():
        assert [m["batch"] for m in row["batches"]] == [1, 5]
        for m in row["batches"]:
            assert m["calls"] >= 16 and 0 < m["latency_median"] <= m["latency_p99"]
            assert m["throughput"] == pytest.approx(m["batch"] / m["latency_median"])
            assert m["joules"] is None or m["joules"] > 0
    assert all(m["speedup_torch"] == [1, 1, 1] for m in forms[TORCH]["batches"])
    assert [entry["layer"] for entry in value["layers"][0]["layers"]] == ["conv1", "conv2", "fc1", "fc2"]
    assert picture.read_bytes().startswith(b"\x89PNG")

    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name("mnist-cnn bench")
    [logged] = client.search_runs([experiment.experiment_id])
    assert logged.info.status == "FINISHED" and logged.info.run_id in link
    assert {f.path for f in client.list_artifacts(logged.info.run_id)} == {"bench.json", "bench.png"}
    metrics = logged.data.metrics
    assert metrics[f"file_bytes/{RUNTIME}"] == packed.stat().st_size
    for name, row in forms.items():
        assert metrics[f"mcc/{name}"] == pytest.approx(row["mcc"], rel=1e-5)
        for m in row["batches"]:
            place = f"{name}/batch {m['batch']}"
            assert metrics[f"latency_p99/{place}"] == pytest.approx(m["latency_p99"], rel=1e-4)


@pytest.mark.usefixtures("short")
def test_a_plain_file_without_data(tmp_path, monkeypatch):
    monkeypatch.delenv("TTQ_DATA_DIR", raising=False)
    path = tmp_path / "plain.safetensors"
    save_weights(made("esr-cnn-transformer"), path, {"task": "esr-cnn-transformer"})
    before = torch.get_num_threads()
    text = run(path, "--batch", 1, "--seconds", 0.01, "--store", tmp_path / "runs")
    assert "int8 was calibrated on random samples" in text and "batch 1, ttq runtime: conv1 " in text
    assert [line.split()[0] for line in text.splitlines()].count("onnxruntime") == 4
    assert {p.name for p in tmp_path.iterdir()} == {"plain.safetensors", "runs"}
    assert torch.get_num_threads() == before


@pytest.mark.usefixtures("short")
def test_without_onnxruntime_the_rest_is_measured(packed, tmp_path, monkeypatch):
    def missing(*_):
        raise InputError("ONNX exports need the package onnx")

    monkeypatch.setattr(bench_module, "to_onnx", missing)
    value = json.loads(run(packed, "--batch", 1, "--seconds", 0.01, "--store", tmp_path, "--json"))
    assert [row["form"] for row in value["forms"]] == [RUNTIME, RUNTIME8, INTEGER, TORCH]
    assert value["notes"][0] == "onnxruntime was not measured: ONNX exports need the package onnx"


def test_memory_is_at_least_the_weights(tmp_path):
    path = tmp_path / "m.safetensors"
    save_weights(made("esr-2dcnn"), path, {"task": "esr-2dcnn"})
    weights, inputs = 4 * 1_555_842, tmp_path / "x.safetensors"
    write_example(torch.zeros(1, 1, 32, 37), inputs)
    assert weights < peak_memory("torch", path, inputs, 1) < 40 * weights
    assert peak_memory("torch", tmp_path / "none", inputs, 1) is None


def test_inputs_of_any_nesting_come_back_from_a_file(tmp_path):
    given = {"x": (torch.arange(4), [torch.rand(2, 3), 2.5]), "flag": None, "n": 3}
    write_example(given, tmp_path / "x.safetensors")
    back = read_example(tmp_path / "x.safetensors")
    assert torch.equal(back["x"][0], given["x"][0]) and torch.equal(back["x"][1][0], given["x"][1][0])
    assert back["x"][1][1] == 2.5 and type(back["x"]) is tuple and type(back["x"][1]) is list
    assert (back["flag"], back["n"]) == (None, 3)
    with pytest.raises(InputError, match="tensors in tuples, lists and dicts, got set"):
        write_example((torch.zeros(1), {1}), tmp_path / "y.safetensors")
    assert not (tmp_path / "y.safetensors").exists()


def test_energy_by_counters_that_start_again(tmp_path):
    zone, part = tmp_path / "intel-rapl:0", tmp_path / "intel-rapl:0:0"
    for folder in (zone, part):
        folder.mkdir()
        (folder / "max_energy_range_uj").write_text("99999999\n")
        (folder / "energy_uj").write_text("99999000\n")
    (tmp_path / "intel-rapl:1").mkdir()  # not readable: no counter in it
    found = counters(tmp_path)
    assert [counter.file for counter in found] == [zone / "energy_uj"]
    calls = 0

    def call():
        nonlocal calls
        calls += 1
        (zone / "energy_uj").write_text(f"{(99_999_000 + 700 * calls) % 100_000_000}\n")

    measured = joules(call, found, 0.1, samples=7)
    assert calls > 2, "the counter has not started again"
    assert measured == pytest.approx(700e-6 / 7)
    assert joules(call, [], 1.0, samples=1) is None


def test_bad_input(packed, tmp_path):
    with pytest.raises(InputError, match="--device must be cpu"):
        run(packed, "--device", "cuda")
    with pytest.raises(InputError, match="seconds and threads must be positive"):
        run(packed, "--seconds", -1, "--store", tmp_path / "runs")
    with pytest.raises(InputError, match="none.safetensors"):
        run(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="nowhere"):
        run(packed, "--data", tmp_path / "nowhere", "--store", tmp_path / "runs")
