"""The command line: quick answers, one sentence and exit code 2 for bad input, and the single commands."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from ttq_plugin import cli
from ttq_plugin.files import load_weights
from ttq_plugin.tasks.mnist import MnistCNN

COMMANDS = ["search", "train", "sensitivity", "compress", "ui"]


def ttq(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ttq_plugin.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
        timeout=300,
    )


def refused(result: subprocess.CompletedProcess[str], message: str) -> None:
    """Exit code 2, nothing on standard output, one line that says it."""
    assert result.returncode == 2, result.stderr
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("arguments, code, seconds", [(["--help"], 0, 0.5), (["compress", "--methd", "x"], 2, 1.0)])
def test_help_and_wrong_usage_import_nothing_heavy(arguments, code, seconds):
    """The clock's best of five; the imports, which cause it, exactly."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        result = ttq(*arguments)
        times.append(time.perf_counter() - started)
        assert result.returncode == code
    print(f"{arguments}: {min(times):.2f} s (goal {seconds} s)")
    check = (
        f"import sys; sys.argv = ['ttq', *{arguments!r}]\nfrom ttq_plugin.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('HEAVY', [m for m in ('torch', 'nni', 'mlflow', 'optuna', 'numpy', 'rich') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert "HEAVY []" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_json_seed_and_device(command):
    result = CliRunner().invoke(cli.cli, [command, "--help"])
    assert result.exit_code == 0
    for option in ("--json", "--seed", "--device"):
        assert option in result.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "cifar"], "'cifar' is not 'mnist-cnn'"),
        (["compress", "mnist-cnn", "--method", "twist"], "'twist' is not one of 'twn', 'ttq', 'attq', 'pttq'"),
        (["search", "nowhere.yaml"], "nowhere.yaml"),
        (["search", "--trials", "0"], "0 is not in the range x>=1"),
        (["search", "--study", "a", "--resume", "b"], "--study names a new study and --resume an old one"),
        (["compress", "mnist-cnn", "--method", "attq", "--t-min", "1", "--t-max", "-1"], "t_min must not exceed t_max"),
        (["compress", "mnist-cnn", "--method", "ttq", "--t-min", "1"], "ttq has no t_min; it takes alpha, t"),
        (["compress", "mnist-cnn", "--config", "nowhere.json"], "the config list nowhere.json cannot be read"),
        (["sensitivity", "mnist-cnn", "--budget", "1.5"], "--budget must lie in (0, 1], got 1.5"),
        (["train", "mnist-cnn", "--data", "nowhere.npz"], "the data file nowhere.npz does not exist"),
        (["train", "mnist-cnn", "--device", "warp"], "device 'warp' cannot be used here"),
        (["ui"], "mlflow_runs holds no MLflow database; run `ttq search` first"),
        (["search", "--resume", "lost"], "studies.db"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, arguments, message):
    refused(ttq(*arguments, cwd=tmp_path), message)
    assert list(tmp_path.iterdir()) == []


def write_space(path: Path, change: str = "", old: str = "") -> Path:
    text = """
task: mnist-cnn
objectives: [mcc, cr_gain_total, ec_gain_total]
trials: 3
parameters: {lr: 2.0e-3, lr_scale: 1.0e-3, lr_threshold: 1.0e-3, epochs: 1, share: {low: 0.5, high: 1.0}}
methods: {ttq: {t: {low: 0.02, high: 0.2}}}
paper: []
"""
    assert old in text
    path.write_text(text.replace(old, change))
    return path


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("trials: 3", "trails: 3", "trails"),
        ("low: 0.02, high: 0.2", "low: 0.2, high: 0.02", "low"),
        ("{ttq:", "{qtt:", "qtt"),
        ("[mcc,", "[accuracy,", "accuracy"),
        ("task: mnist-cnn", "task: cifar", "cifar"),
    ],
)
def test_a_wrong_space_file_names_file_key_and_what_is_allowed(tmp_path, old, new, message):
    space = write_space(tmp_path / "space.yaml", new, old)
    result = ttq("search", str(space), cwd=tmp_path)
    refused(result, message)
    assert "space.yaml" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["space.yaml"]


def test_a_locked_database_is_told(tmp_path):
    space = write_space(tmp_path / "space.yaml")
    database = tmp_path / "studies.db"
    holder = sqlite3.connect(database)
    holder.execute("CREATE TABLE studies (study_id INTEGER)")
    holder.execute("BEGIN EXCLUSIVE")
    try:
        refused(ttq("search", str(space), "--storage", f"sqlite:///{database}", cwd=tmp_path), "locked")
    finally:
        holder.close()


def test_a_database_that_cannot_be_written(tmp_path):
    space = write_space(tmp_path / "space.yaml")
    refused(ttq("search", str(space), "--storage", "sqlite:////dev/null/x.db", cwd=tmp_path), "x.db")


def test_a_port_in_use(tmp_path, search):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = ttq("ui", "--store", str(search.store), "--port", str(port), "--no-browser", cwd=tmp_path)
    refused(result, f"port {port} on 127.0.0.1 must be free")


def test_train(tmp_path, cache):
    result = ttq("train", "mnist-cnn", "--json", "--cache", str(cache), "--out", "m.safetensors", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    assert value["parameters"] == 9840 and value["mcc"] > 0.93 and value["test_mcc"] > 0.93
    assert float(load_weights(MnistCNN(), tmp_path / "m.safetensors")["mcc"]) == value["mcc"]


def test_sensitivity_writes_what_compress_reads(tmp_path, cache):
    common = ["--cache", str(cache)]
    result = ttq("sensitivity", "mnist-cnn", "--budget", "0.6", "--out", "c.json", *common, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "trace / weight" in result.stdout and "conv2" in result.stdout
    [config] = json.loads((tmp_path / "c.json").read_text())
    arguments = ["--method", "attq", "--epochs", "1", "--config", "c.json", "--out", "m.safetensors", "--json"]
    result = ttq("compress", "mnist-cnn", *arguments, *common, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    assert sorted(value["layers"]) == sorted(config["op_names"])
    assert 0 < value["srqw"] < 1 and value["mcc"] > 0.8 and value["test_mcc"] > 0.8
    model = MnistCNN()
    assert load_weights(model, tmp_path / "m.safetensors")["method"] == "attq"
    for name in value["layers"]:
        assert len(model.get_submodule(name).weight.unique()) == 3


def test_compress_prints_a_report(tmp_path, cache):
    result = ttq("compress", "mnist-cnn", "--epochs", "1", "--cache", str(cache), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for text in ("coo34", "entropy", "MCC", "test; full precision"):
        assert text in result.stdout
    assert list(tmp_path.iterdir()) == []
