"""How errors are told: one sentence, the user's own line, and everything with TTQ_DEBUG."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ttq_plugin import cli

OWN = """
import torch, torch.nn.functional as F
from torch import nn
from ttq_plugin.tasks.task import Data, Recipe, Split, Task

def load(source, seed):
    if WHERE == "load": open("no such recordings.csv")
    x, y = torch.randn(90, 4, generator=torch.Generator().manual_seed(1)), torch.arange(90) // 3 % 3
    return Data(*(Split(x[i::3], y[i::3]) for i in range(3)))

def model():
    if WHERE == "model": open("no such recordings.csv")
    return nn.Linear(4, 3)

def loss(outputs, targets):
    if WHERE == "loss": open("no such recordings.csv")
    return F.cross_entropy(outputs, targets)

if WHERE == "module": open("no such recordings.csv")
TASK = Task("own", "noise", load, model, loss, Recipe(epochs=1, lr=1e-2))
"""


def ended(monkeypatch, capfd, *words):
    """Exit code and standard error of a command in this process."""
    monkeypatch.setattr("sys.argv", ["ttq", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, capfd.readouterr().err


def test_the_package_is_a_program(tmp_path):
    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "ttq_plugin", *words], capture_output=True, text=True, cwd=tmp_path, timeout=300
        )

    assert run("--version").stdout.startswith("python -m ttq_plugin, version ")
    refused = run("train", "cifar")
    assert refused.returncode == 2 and "task must be one of mnist-cnn" in refused.stderr and refused.stdout == ""


@pytest.mark.parametrize("where", ["load", "model", "loss", "module"])
def test_an_oserror_of_the_users_code_is_told_with_their_line(tmp_path, monkeypatch, capfd, where):
    name = f"own_{where}_opens_files"
    (tmp_path / f"{name}.py").write_text(OWN.replace("WHERE", repr(where)))
    monkeypatch.syspath_prepend(str(tmp_path))
    code, told = ended(monkeypatch, capfd, "train", f"{name}:TASK", "--cache", str(tmp_path / "cache"))
    [line] = [line for line in told.splitlines() if line.startswith("Error: ")]
    assert code == 2 and "Traceback" not in told
    assert "FileNotFoundError: [Errno 2] No such file or directory: 'no such recordings.csv'" in line
    assert f"{name}.py, line " in line and 'open("no such recordings.csv")' in line


def test_an_oserror_of_the_users_code_that_nothing_expects(tmp_path, monkeypatch, capfd):
    (tmp_path / "opener.py").write_text("def ui(**given):\n    open('nowhere.csv')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("ttq_plugin.commands.ui.ui", __import__("opener").ui)
    code, told = ended(monkeypatch, capfd, "ui")
    [line] = told.splitlines()
    assert code == 1 and "(opener.py, line 2, in ui: open('nowhere.csv'))" in line


def test_debugging_prints_the_whole_traceback_before_the_sentence(tmp_path, monkeypatch, capfd):
    words = ["export", str(tmp_path / "x://me:hunter2@host"), "--to", "c"]
    code, told = ended(monkeypatch, capfd, *words)
    assert code == 2 and len(told.splitlines()) == 1
    for value in ("", "0"):
        monkeypatch.setenv("TTQ_DEBUG", value)
        assert ended(monkeypatch, capfd, *words) == (2, told)
    monkeypatch.setenv("TTQ_DEBUG", "1")
    code, whole = ended(monkeypatch, capfd, *words)
    assert code == 2 and whole.startswith("Traceback") and whole.endswith(told) and "find_model" in whole
    assert "hunter2" not in whole


def test_debugging_shows_what_led_to_a_sentence(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TTQ_DEBUG", "1")
    (tmp_path / "file").write_text("")
    code, told = ended(monkeypatch, capfd, "train", "mnist-cnn", "--cache", str(tmp_path / "file" / "cache"))
    assert code == 2 and "NotADirectoryError" in told and "During handling of the above exception" in told
    assert told.splitlines()[-1].startswith("Error: the cache folder")
