"""The command line: quick answers, one sentence and exit code 2 for bad input, and the single commands."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.hostile import typed
from ttq_plugin import cli, load_packed, packed_info
from ttq_plugin.support.weights import load_weights
from ttq_plugin.tasks.builtin.mnist import MnistCNN
from ttq_plugin.tracking import open_store

COMMANDS = ["search", "train", "sensitivity", "compress", "export", "report", "reproduce", "ui", "worker"]


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


@pytest.fixture
def here(tmp_path, monkeypatch, capfd):
    """The same program in this process and the test's folder: a refusal needs no imports of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        told = typed(capfd, *arguments)
        return subprocess.CompletedProcess(arguments, told.code, told.out, told.err)

    return run


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
        (["train", "cifar"], "task must be one of mnist-cnn, mnist-cnn-full, esr-2dcnn"),
        (["compress", "mnist-cnn", "--method", "twist"], "'twist' is not one of 'twn', 'ttq', 'attq', 'pttq'"),
        (["search", "nowhere.yaml"], "nowhere.yaml"),
        (["search", "--trials", "0"], "0 is not in the range x>=1"),
        (["search", "--study", "a", "--resume", "b"], "--study names a new study and --resume an existing one"),
        (["compress", "mnist-cnn", "--method", "attq", "--t-min", "1", "--t-max", "-1"], "t_min must not exceed t_max"),
        (["compress", "mnist-cnn", "--zeros", "0.9", "--t-min", "1"], "so t_min cannot be given with it"),
        (["compress", "mnist-cnn", "--zeros", "90"], "zeros must lie in (0, 1), got 90"),
        (["compress", "mnist-cnn", "--zeros", "0.9", "--max-bytes", "9000"], "max_bytes and zeros both say how many"),
        (["compress", "mnist-cnn", "--method", "ttq", "--t-min", "1"], "ttq has no t_min; it takes alpha, t"),
        (["compress", "mnist-cnn", "--config", "nowhere.json"], "the config list nowhere.json cannot be read"),
        (["sensitivity", "mnist-cnn", "--budget", "1.5"], "--budget must lie in (0, 1], got 1.5"),
        (["sensitivity", "mnist-cnn", "--max-energy", "nan"], "--max-energy must be a finite number of joules"),
        (["sensitivity", "mnist-cnn", "--budget", "0.5", "--max-bits", "9"], "--budget and --max-bits are budgets of"),
        (["sensitivity", "mnist-cnn", "--methods", "pttq,int9"], "`methods` must name some of fp32, int8, int4, twn"),
        (["sensitivity", "mnist-cnn", "--exclude", "norm"], "`exclude` must name candidate layers, got 'norm'"),
        (["sensitivity", "mnist-cnn", "--tol", "0"], "--tol must be positive, got 0"),
        (["sensitivity", "mnist-cnn", "--plot", "."], ". cannot be written (it is a folder); name a file"),
        (["train", "mnist-cnn", "--data", "nowhere.npz"], "the data file nowhere.npz does not exist"),
        (["train", "mnist-cnn", "--device", "warp"], "device 'warp' cannot be used here"),
        (["export", "nowhere.safetensors", "--to", "c"], "the weights nowhere.safetensors do not exist"),
        (["ui"], "mlflow_runs holds no MLflow database; run `ttq search` first"),
        (["search", "--resume", "lost"], "studies.db"),
        (["search", "--store", "a?b", "--storage", "sqlite:///s.db"], "must be a folder without ? and % codes"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(here, tmp_path, arguments, message):
    refused(here(*arguments), message)
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
def test_a_wrong_space_file_names_file_key_and_what_is_allowed(here, tmp_path, old, new, message):
    space = write_space(tmp_path / "space.yaml", new, old)
    result = here("search", str(space))
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
    result = ttq("search", str(space), "--storage", "sqlite:////dev/null/x.db", cwd=tmp_path)
    refused(result, "The study database /dev/null/x.db cannot be opened: there is no folder /dev/null.")
    assert "full-precision" not in result.stderr and list(tmp_path.iterdir()) == [space], "refused before the training"


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
    files = ["--out", "c.json", "--plot", "p.png"]
    result = ttq("sensitivity", "mnist-cnn", "--budget", "0.6", *files, *common, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for text in ("trace / weight", "conv2", "Omega pttq", "proved optimal", "config list: c.json", "picture: p.png"):
        assert text in result.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.json", "mlflow_runs", "p.png"]
    [config] = json.loads((tmp_path / "c.json").read_text())
    arguments = ["--method", "attq", "--epochs", "1", "--config", "c.json", "--out", "m.safetensors", "--json"]
    result = ttq("compress", "mnist-cnn", *arguments, *common, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    assert sorted(value["layers"]) == sorted(config["op_names"])
    assert 0 < value["srqw"] < 1 and value["mcc"] > 0.8 and value["test_mcc"] > 0.8
    model, info = load_packed(tmp_path / "m.safetensors"), packed_info(tmp_path / "m.safetensors")
    assert (info.task, info.method, info.more["layers"]) == ("mnist-cnn", "attq", value["layers"])
    assert value["bits_disk"] == 8 * info.nbytes and info.report["mcc"] == value["mcc"]
    weights = sum(model.get_submodule(name).weight.numel() for name in value["layers"])
    written = sum(info.packed_bytes[name] for name in value["layers"])
    assert value["cr_gain_quantized_disk"] == 1 - 8 * written / (32 * weights)
    for name in value["layers"]:
        assert len(model.get_submodule(name).weight.unique()) == 3


def test_the_rest_in_eight_bits_is_what_is_scored(tmp_path, cache):
    common = ["compress", "mnist-cnn", "--epochs", "1", "--share", "0.5", "--cache", str(cache)]
    refused(
        ttq(*common, "--rest", "int8", cwd=tmp_path), "--rest int8 applies to the file that --out writes; add --out."
    )
    results = [ttq(*common, "--out", rest, "--rest", rest, cwd=tmp_path) for rest in ("exact", "int8")]
    for result in results:
        assert result.returncode == 0, result.stderr
        assert "disk kB" in result.stdout and "kB: compression gain" in result.stdout
    sizes = [packed_info(tmp_path / rest).nbytes for rest in ("exact", "int8")]
    assert sizes[1] < 0.6 * sizes[0]
    assert f"file {sizes[1] / 1e3:.2f} kB" in results[1].stdout


def test_sensitivity_of_a_mixed_choice_is_a_chain(tmp_path, cache, search):
    """Logged to the store it is told, as JSON with what the tables say; `compress` runs it."""
    store = tmp_path / "runs"
    # Other tests may read it just now, whose -wal and -shm come and go.
    shutil.copytree(search.store, store, ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    budget = ["--methods", "pttq,int8,int4", "--max-bits", "60000", "--keep-first", "--include", "fc2"]
    arguments = [*budget, "--probes", "8", "--store", "runs", "--cache", str(cache)]
    result = ttq("sensitivity", "mnist-cnn", *arguments, "--out", "c.json", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    assert value["bits"] <= 60000 and value["gap"] == 0
    assert value["methods"]["conv1"] == "fp32" != value["methods"]["fc2"]
    assert {trace["probes"] for trace in value["traces"]} == {8}
    assert json.loads((tmp_path / "c.json").read_text()) == value["chain"]
    run = open_store(store).client.get_run(value["link"].rsplit("/", 1)[1])
    assert run.data.tags["role"] == "sensitivity" and run.data.params["budget_bits"] == "60000.0"
    assert run.data.metrics["bits"] == value["bits"]
    result = ttq("sensitivity", "mnist-cnn", *arguments, cwd=tmp_path)
    assert result.returncode == 0 and "chain: [{" in result.stdout
    compressed = ["--config", "c.json", "--epochs", "1", "--json", "--cache", str(cache)]
    result = ttq("compress", "mnist-cnn", *compressed, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    done = json.loads(result.stdout)
    assert set(done["layers"]) == set(value["layers"]) and done["bits_base3"] == value["bits"]


def test_a_budget_that_cannot_be_met_writes_nothing(tmp_path, cache):
    common = ["sensitivity", "mnist-cnn", "--cache", str(cache), "--out", "c.json", "--plot", "p.png"]
    refused(ttq(*common, "--max-bits", "9", cwd=tmp_path), "`budget` cannot be met: the smallest possible is 18")
    refused(ttq(*common, "--max-bits", "999999999", cwd=tmp_path), "nothing to write to --out")
    assert list(tmp_path.iterdir()) == []


def test_compress_prints_a_report(tmp_path, cache):
    result = ttq("compress", "mnist-cnn", "--epochs", "1", "--cache", str(cache), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for text in ("coo34", "entropy", "MCC", "test; full precision"):
        assert text in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_compress_with_scales_an_output_channel(tmp_path, cache):
    common = ["compress", "mnist-cnn", "--epochs", "1", "--cache", str(cache), "--out", "m.safetensors"]
    result = ttq(*common, "--granularity", "out_channel", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    weight = load_packed(tmp_path / "m.safetensors", model=MnistCNN()).conv2.weight
    assert len(weight.unique()) > 3 and all(len(channel.unique()) <= 3 for channel in weight)


def link(compressor: str, dtype: str, *layers: str, **options: float) -> dict:
    entry = {"op_names": list(layers), "target_names": ["weight"], "quant_dtype": dtype, "quant_scheme": "symmetric"}
    return {"compressor": compressor, "config_list": [entry], "options": options}


def write_chain(path: Path) -> list[dict]:
    chain = [
        link("QATQuantizer", "int8", "conv1", "fc2"),
        link("TTQQuantizer", "int2", "conv2", t=0.1),
        link("PTTQQuantizer", "int2", "fc1"),
    ]
    path.write_text(json.dumps(chain))
    return chain


def test_compress_runs_a_chain_and_writes_what_it_was(tmp_path, cache):
    chain = write_chain(tmp_path / "chain.json")
    arguments = ["compress", "mnist-cnn", "--config", "chain.json", "--epochs", "1", "--cache", str(cache)]
    result = ttq(*arguments, "--out", "m.safetensors", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    kinds = {"conv1": "int8", "conv2": "ternary", "fc1": "ternary", "fc2": "int8"}
    assert value["settings"]["method"] == "mixed" and value["kinds"] == kinds and value["layers"] == sorted(kinds)
    assert value["bits_base3"] == 8 * 750 + 64 + 8 * 1000 + 64 + 8 * 800 + 64 + 32 * 90
    assert value["cr_gain_base3"] == 1 - value["bits_base3"] / value["bits_fp32"] and value["mcc"] > 0.8
    model, info = load_packed(tmp_path / "m.safetensors"), packed_info(tmp_path / "m.safetensors")
    assert info.method == "mixed" and info.more == {"layers": sorted(kinds), "kinds": kinds, "chain": chain, "seed": 0}
    assert set(info.packed_bytes) >= {"conv2", "fc1"}
    assert len(model.conv2.weight.unique()) == 3 < len(model.fc2.weight.unique()) <= 255
    result = ttq(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "mixed on conv1 (int8), conv2 (ternary), fc1 (ternary), fc2 (int8): MCC" in result.stdout
    assert [line.split()[1] for line in result.stdout.splitlines()[1:5]] == list(kinds.values())
    assert "whole model, kB (gain): fp32 39.36, coo34" in result.stdout


@pytest.mark.parametrize(
    "text, message",
    [
        ("{}", "the config list c.json must be a list of NNI config entries, or a chain, a list of objects with"),
        ("[]", "the config list c.json must be a list of NNI config entries, or a chain"),
        ("[3]", "the config list c.json must be a list of NNI config entries, or a chain"),
        ("[{", "the config list c.json is not JSON"),
        ('[{"compressor": "QATQuantizer"}, {"op_names": ["fc1"]}]', "mixes the links of a chain with NNI config"),
        ('[{"compressor": "QATQuantizer"}]', "c.json: Each link of a chain must be an object with comp"),
        ('[{"compressor": "Twist", "config_list": [{}], "options": {}}]', "c.json: `compressor` of link 0 must be"),
    ],
)
def test_a_wrong_config_file_is_one_sentence(here, tmp_path, text, message):
    (tmp_path / "c.json").write_text(text)
    refused(here("compress", "mnist-cnn", "--config", "c.json"), message)
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]


@pytest.mark.parametrize(
    "option, message",
    [
        (["--method", "pttq"], "--method contradicts the chain chain.json, which already determines it; leave it out."),
        (["--t-min", "1.0"], "--t-min contradicts the chain chain.json, which already determines it; leave it out."),
        (["--share", "1.0"], "--share contradicts the chain chain.json, which already determines it; leave it out."),
        (["--lr", "0"], "lr must be positive, got 0"),
    ],
)
def test_options_that_contradict_a_chain(here, tmp_path, option, message):
    write_chain(tmp_path / "chain.json")
    refused(here("compress", "mnist-cnn", "--config", "chain.json", *option), message)


def test_what_a_config_list_says_itself_contradicts_it(here, tmp_path):
    (tmp_path / "c.json").write_text('[{"op_names": ["fc1"]}]')
    for option in (["--share", "0.5"], ["--granularity", "out_channel"]):
        result = here("compress", "mnist-cnn", "--config", "c.json", *option)
        refused(result, f"{option[0]} contradicts the config list c.json, which already determines it; leave it out.")


def test_a_chain_that_does_not_fit_the_model(tmp_path, cache):
    (tmp_path / "c.json").write_text(json.dumps([link("QATQuantizer", "int8", "conv9")]))
    arguments = ["--config", "c.json", "--epochs", "1", "--cache", str(cache), "--out", "m.safetensors"]
    result = ttq("compress", "mnist-cnn", *arguments, cwd=tmp_path)
    refused(result, "config_list names the layer 'conv9', which the model does not have; its layers are conv1, conv2")
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]
