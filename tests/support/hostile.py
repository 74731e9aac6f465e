"""Names that users may choose and that some place takes for syntax, and a command line that runs in this process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.support.test_names import HOSTILE
from ttq_plugin import cli

MORE = (
    *("CON", "NUL.txt", "None", "null", "--help", "-x", "--", "-", "~confirm", "..\\x", "x\ry", "x\ty", "a.", "a "),
    *(
        "%s",
        "%(x)s {x}",
        "{0}",
        "${HOME}",
        "&amp;",
        "--><b>",
        "]]>",
        "'\"><i>",
        "*//*",
        "a??/",
        "\\input{x}",
        "\u200fx",
    ),
    *("ﬀ", "名前", "\ufeffx", "é", "e\u0301", "👍🏽", "x\u0300" * 20, "A", "a", "a" * 256, "%2e%2e%2f", "&#47;", "a|b"),
    *("[x](javascript:y)", "password=hunter3", "sigma=3", "http://[", "sqlite:///x.db?mode=ro", "mine:TASK", "@"),
)
names = st.one_of(
    st.sampled_from((*HOSTILE, *MORE)),
    st.text(st.characters(codec=None), max_size=40),
    st.text("./_:%$[]<>&'\" \\-a\n{}|=@?#", max_size=10),
)
slow = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def tried(few: int) -> settings:
    """Few examples, always the same ones; many in the run that is asked for by ``-m long``."""
    return settings(deadline=None, max_examples=few, suppress_health_check=slow, derandomize=True, database=None)


def long(count: int = 300) -> settings:
    return settings(deadline=None, max_examples=count, suppress_health_check=slow, database=None)


@dataclass(frozen=True)
class Told:
    """How a command ended."""

    code: int
    out: str
    err: str


def typed(capfd: pytest.CaptureFixture[str], *words: str, debug: bool = False) -> Told:
    """A command as a shell would start it; never a traceback or a raw control character, refusals in a sentence."""
    capfd.readouterr()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("sys.argv", ["ttq", *words])
        cli.main()
    told = Told(ended.value.code or 0, *capfd.readouterr())
    assert told.code in {0, 1, 2} and (debug or "Traceback" not in told.out + told.err), told
    assert not CONTROL.search(told.out + told.err), told
    if told.code == 2 and not debug:
        *usage, error = told.err.splitlines()
        assert told.out == "" and error.startswith("Error: ") and not any("Error: " in line for line in usage), told
    return told


def everything(folder: Path) -> set[str]:
    """What lies in a folder, at any depth."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


class Page(HTMLParser):
    """The elements of a page, without the names of what they hold, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.words, self.title, self._in = "", "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self._in = tag

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        self.words += data if self._in not in {"script", "style"} else ""
        self.title += data if self._in == "title" else ""
