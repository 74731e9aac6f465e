"""What the README and the pages of docs/ tell a reader to run, and a process that runs it in the reader's order.

A block is Python, YAML or a console. One with a title is a file that the reader saves; a Python block without a title
runs by itself. In a console each line that begins with a dollar is a command. `python -m tests.docs.documents FILE`
runs a document in the working directory, in one process, so that torch is imported once.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)

ELSEWHERE = ("make", "pip", "git", "source", "pre-commit")
"""Commands about the installation itself; `make demo` and `make test` have a test of their own."""


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    title: str | None
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a console."""
        lines = [line[2:] for line in self.text.splitlines() if line.startswith("$ ")]
        return [shlex.split(line, comments=True) for line in lines] if self.language == "console" else []

    @property
    def runs(self) -> bool:
        """Whether it is more than a picture of text."""
        return self.language in {"python", "yaml", "console"}


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document in their order."""
    return [Block(*found) for found in BLOCK.findall(document.read_text())]


def commands(document: Path) -> list[list[str]]:
    """All commands of a document."""
    return [command for block in blocks(document) for command in block.commands]


def run(document: Path) -> None:
    """Do what the document says, in the working directory."""
    from ttq_plugin.cli import cli
    from ttq_plugin.support.processes import own_process

    own_process()
    sys.path.insert(0, ".")
    for block in blocks(document):
        if block.title:
            Path(block.title).write_text(block.text)
        elif block.language == "python":
            print(f">>> {block.text}", flush=True)
            exec(compile(block.text, f"{document.name}, a block", "exec"), {"__name__": "__main__"})
        for program, *arguments in block.commands:
            print(f"$ {program} {' '.join(arguments)}", flush=True)
            if program == "ttq" and arguments[0] != "ui":
                cli(arguments, standalone_mode=False)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
