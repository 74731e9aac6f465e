"""`ttq reproduce` as a user runs it: on the embedded digits, interrupted, again, into MLflow."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from tests.support.hostile import typed


def ttq(*arguments, cwd, **options):
    command = [sys.executable, "-m", "ttq_plugin.cli", "reproduce", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("reproduce")
    arguments = ["main", "--repetitions", "2", "--methods", "ttq,lsq-int2", "--scale", "0.01"]
    first = ttq(*arguments, "--cache", str(cache), "--json", cwd=folder)
    assert first.returncode == 0, first.stderr
    return folder, arguments, json.loads(first.stdout)


def runs(folder, condition):
    client = MlflowClient(f"sqlite:///{folder / 'mlflow_runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("reproduce main mnist-cnn")
    return client.search_runs([experiment.experiment_id], condition)


def test_the_report_and_its_numbers(made):
    folder, _, summary = made
    rows = {row["row"]: row for row in summary["rows"]}
    assert list(rows) == ["fp", "ttq", "lsq-int2"] and summary["seeds"] == [0, 1] and summary["samples"] == 3000
    for row in ("ttq", "lsq-int2"):
        columns = rows[row]["columns"]
        assert len(columns["mcc"]["values"]) == 2 and 0 <= columns["srqw"]["mean"] <= 100
    change = rows["ttq"]["columns"]["mcc_change"]["values"]
    assert change == pytest.approx(
        [a - b for a, b in zip(*(rows[r]["columns"]["mcc"]["values"] for r in ("ttq", "fp")), strict=True)]
    )
    twin = json.loads((folder / "reports" / "main-mnist-cnn.json").read_text())
    assert twin["rows"] == summary["rows"]
    text = (folder / "reports" / "main-mnist-cnn.md").read_text()
    assert "the task's own data" in text and f"$ {summary['command']}\n" in text


def test_once_more_repeats_nothing_and_one_repetition_more_adds_only_that(made, cache):
    folder, arguments, summary = made
    assert len(runs(folder, "tags.role = 'repetition'")) == 6
    again = ttq(*arguments, "--cache", str(cache), "--json", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["rows"] == summary["rows"]  # seconds and all: nothing was trained
    assert len(runs(folder, "tags.role = 'repetition'")) == 6 and len(runs(folder, "tags.role = 'report'")) == 1
    [run] = runs(folder, "tags.cell = 'ttq-seed1'")
    assert run.info.status == "FINISHED" and run.data.params["lr"] == "0.0001"
    value = summary["rows"][1]["columns"]["mcc"]["values"][1]
    assert 100 * run.data.metrics["test_mcc"] == pytest.approx(value, rel=1e-5)
    shown = ttq(*arguments, "--cache", str(cache), cwd=folder)
    assert "MCC change" in shown.stdout and "lsq-int2" in shown.stdout and "report: reports/" in shown.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["main", "--methods", "twn"], "the table main of mnist-cnn has the rows dorefa"),
        (["main", "--scale", "0"], "the epochs' scale must lie in (0, 1], got 0"),
        (["beyond", "--task", "hits-2dcnn"], "goals beyond the papers are set for"),
        (["main", "--task", "esr-2dcnn", "--repetitions", "1"], "--data"),
        (["table2"], "'table2' is not one of 'main'"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capfd, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = typed(capfd, "reproduce", *arguments)
    assert done.code == 2 and message in done.err
    assert not list(tmp_path.rglob("*.md"))
