"""Every command on one built-in task, on a little data in its official form: the quick ones, and those with workers."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tests.conftest import ROOT
from ttq_plugin import cli


def ttq(*words: object) -> dict[str, Any]:
    """One command in this process; what it printed as JSON."""
    result = CliRunner().invoke(cli.cli, [*map(str, words), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout[result.stdout.index("{") :])
    return found


def short_space(task: str, folder: Path) -> Path:
    """The task's own space, of two trials of pttq that end after an epoch."""
    space = yaml.safe_load((ROOT / "search_spaces" / f"{task}.yaml").read_text())
    space["parameters"] |= {"epochs": 1, "share": 1.0}
    space |= {"trials": 2, "only": ["pttq"], "paper": [], "first": [], "stop_early": {}}
    space["methods"] = {"pttq": {"t_min": {"low": 0.5, "high": 1.0}, "t_max": 0.7, "alpha": 10.0}}
    path = folder / f"{task}.yaml"
    path.write_text(yaml.safe_dump(space))
    return path


def walk(task: str, data: Path, folder: Path) -> dict[str, Any]:
    """Train, sensitivity, compress and the exports; what compress told.

    Every result is looked at for what a reader would miss first: that scores are there for both splits, that files
    exist, and that the C code passes its own test.
    """
    given = ("--data", data, "--cache", folder / "cache", "--quiet")
    trained = ttq("train", task, *given, "--out", folder / "full.safetensors")
    assert {"mcc", "test_mcc"} <= trained.keys() and (folder / "full.safetensors").exists()
    layers = ttq(
        "sensitivity", task, *given, "--probes", 2, "--store", folder / "runs", "--out", folder / "layers.json"
    )
    assert layers["layers"] and (folder / "layers.json").exists()
    small = folder / "small.safetensors"
    made = ttq("compress", task, *given, "--zeros", 0.8, "--epochs", 1, "--out", small)
    assert made["srqw"] == pytest.approx(0.8, abs=0.01) and {"mcc", "test_mcc"} <= made.keys()
    for form in ("c", "c-int8", "onnx"):
        told = ttq("export", small, "--to", form, "--data", data, "--quiet", "--out", folder / f"out-{form}")
        assert told["to"] == form and (folder / f"out-{form}").exists()
    passes(folder / "out-c-int8")
    return made


def walk_on(task: str, data: Path, folder: Path, ram: str = "64k") -> None:
    """Search, report and fit, whose workers take most of a minute to start."""
    given = ("--data", data, "--cache", folder / "cache", "--quiet")
    space, store = short_space(task, folder), ("--store", folder / "runs", "--workers", 1)
    found = ttq("search", space, *given, *store, "--study", "walk")
    assert found["trials"]["failed"] == 0 and found["front"]
    assert Path(ttq("report", "walk", "--store", folder / "runs", "--quiet")["report"]).exists()
    budget = ("--flash", "512k", "--ram", ram, "--floor", -1, "--confirm", 0)
    fitted = ttq("fit", task, *given, *store, "--space", space, *budget, "--out", folder / "device", "--study", "fit")
    assert fitted["ram"] and (folder / "device" / "report.md").exists()
    passes(folder / "device")


def passes(folder: Path) -> None:
    """The integer C code compiles without a warning, and its own test passes."""
    compiler = shutil.which("gcc") or pytest.fail("gcc is missing; .ci/run says which Debian package has it")
    files = sorted(folder.glob("*.c"))
    words = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O1", "-o", folder / "test"]
    subprocess.run([compiler, *words, *files], check=True)
    subprocess.run([folder / "test"], check=True)
