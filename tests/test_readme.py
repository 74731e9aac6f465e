"""Everything in the README runs: its Python, its commands, its files."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.tracking.study import free_port
from ttq_plugin import cli

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("index", range(len(blocks("python"))))
def test_python(index, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", blocks("python")[index]], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    if "three values" in blocks("python")[index]:
        numbers = [float(n) for n in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", result.stdout.split("]")[0])]
        assert len(numbers) == 3 and numbers[0] < 0 == numbers[1] < numbers[2]


def test_commands(tmp_path, cache):
    [space] = blocks("yaml")
    (tmp_path / "space.yaml").write_text(space)
    [own] = [block for block in blocks("python") if "TASK = " in block]
    (tmp_path / "mine.py").write_text(own)
    environment = os.environ | {"TTQ_CACHE_DIR": str(cache)}
    seen = []
    for name, *arguments in commands():
        seen.append(f"{name} {arguments[0]}")
        if name == "make":
            continue
        assert name == "ttq"
        command = [sys.executable, "-m", "ttq_plugin.cli", *arguments]
        if arguments[0] == "ui":
            serve_until_ready([*command, "--port", str(free_port())], tmp_path, environment)
            continue
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{command}: {result.stderr}"
    assert [s for s in seen if s.startswith("make")] == ["make demo", "make test"]
    assert {"ttq train", "ttq sensitivity", "ttq compress", "ttq search", "ttq reproduce", "ttq ui"} <= set(seen)


def serve_until_ready(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    # A shell starts what runs in its background with Ctrl-C ignored, the tests perhaps, and they what they start.
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=listens
    )
    try:
        lines = iter(process.stderr.readline, "")
        assert any("#/experiments/" in line for line in lines), process.poll()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)


def test_make_demo_is_the_search_with_its_defaults():
    rules = (ROOT / "Makefile").read_text()
    assert re.search(r"^demo: install\n\t\$\(BIN\)/ttq search\n", rules, re.MULTILINE)
    assert re.search(r"^test: install\n\t\$\(BIN\)/python -m pytest -n auto --dist loadfile .*\n", rules, re.MULTILINE)
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text()


def test_pictures_and_named_files_exist():
    for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
    for name in ("search_spaces/mnist-cnn.yaml", "constraints.txt", "LICENSE", "CHANGELOG.md"):
        assert (ROOT / name).is_file()


def test_the_reference_names_every_command_and_only_what_exists():
    import ttq_plugin

    named = set(re.findall(r"`ttq (\w+)", README))
    assert named == set(cli.cli.commands)
    for name in re.findall(r"^\| `([A-Za-z_]+)[(`]", README, re.MULTILINE):
        if name != "ttq":
            assert hasattr(ttq_plugin, name), name
