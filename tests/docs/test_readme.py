"""Everything in the README and on the pages of docs/ runs: their Python, their commands, their files."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.documents import DOCUMENTS, ELSEWHERE, blocks, commands
from tests.tracking.study import free_port
from ttq_plugin import cli

README = ROOT / "README.md"
RUNNING = [document for document in DOCUMENTS if any(block.runs for block in blocks(document))]


@pytest.mark.parametrize("document", RUNNING, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_runs(document, tmp_path, cache):
    environment = os.environ | {"TTQ_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-m", "tests.docs.documents", str(document)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
    for text in re.findall(r"three values.*?^tensor\(\[([^\]]*)\]", result.stdout, re.DOTALL | re.MULTILINE):
        low, zero, high = (float(number) for number in text.split(","))
        assert low < 0 == zero < high
    told = result.stdout.count("# three values")
    assert told == len(re.findall(r"three values.*?^tensor\(\[", result.stdout, re.DOTALL | re.MULTILINE))


def test_every_block_has_a_language_that_is_run_or_is_plain_text():
    for document in DOCUMENTS:
        assert len(blocks(document)) * 2 == len(re.findall(r"^```", document.read_text(), re.MULTILINE)), document
        assert {block.language for block in blocks(document)} <= {"python", "yaml", "console", "text"}, document


def test_commands_are_ours_or_about_the_installation():
    seen = [command for document in DOCUMENTS for command in commands(document)]
    assert {name for name, *_ in seen} <= {"ttq", *ELSEWHERE}
    ours = {arguments[0] for name, *arguments in seen if name == "ttq"}
    assert {"train", "sensitivity", "compress", "search", "export", "bench", "report", "ui"} <= ours


def test_the_interface_starts_as_the_tutorial_says(search):
    [command] = [c for c in commands(ROOT / "docs" / "tutorial.md") if c[:2] == ["ttq", "ui"]]
    place = command.index("--study")
    arguments = [*command[1:place], *command[place + 2 :], "--study", search.study, "--port", str(free_port())]
    serve_until_ready([sys.executable, "-m", "ttq_plugin.cli", *arguments], search.folder, dict(os.environ))


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
    assert [" ".join(command) for command in commands(README) if command[0] == "make"] == ["make demo", "make test"]
    rules = (ROOT / "Makefile").read_text()
    assert re.search(r"^demo: install\n\t\$\(BIN\)/ttq search\n", rules, re.MULTILINE)
    assert re.search(r"^test: install\n\t\$\(BIN\)/python -m pytest -n auto --dist loadfile .*\n", rules, re.MULTILINE)
    script = (ROOT / ".ci" / "run").read_text()
    assert [line for line in script.splitlines() if line.startswith("make")] == ["make lint", "make docs", "make test"]


def test_pictures_and_named_files_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text() + (ROOT / "CONTRIBUTING.md").read_text()):
        assert (ROOT / target).exists(), target
    assert re.search(r"!\[[^\]]+\]\(examples/pictures/front.png\)", README.read_text())


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


def test_the_pages_name_every_command_and_only_what_exists():
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    named = set(re.findall(r"(?:`|\$ |^)ttq ([a-z]+)", text, re.MULTILINE))
    assert named == set(cli.cli.commands)
