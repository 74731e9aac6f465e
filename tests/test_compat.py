"""The table of Pythons and torches: what is counted, what stays, and which interpreters it takes."""

from __future__ import annotations

import sys
import tomllib

import pytest

from tests import compat
from tests.conftest import ROOT

REPORT = """<testsuites><testsuite tests="5" failures="{failures}" errors="0" skipped="1">
<testcase name="test_a"/><testcase name="test_b[x|y]">{inside}</testcase></testsuite></testsuites>"""


def test_counts_are_the_reports(tmp_path):
    file = tmp_path / "junit.xml"
    assert compat.counted(file) == "did not start"
    file.write_text(REPORT.format(failures=0, inside=""))
    assert compat.counted(file) == "4 passed"
    file.write_text(REPORT.format(failures=1, inside="<failure/>"))
    assert compat.counted(file) == "1 of 4 failed, first `test_b[x|y]`"


def test_a_row_replaces_its_own_and_leaves_the_others():
    old, new = compat.Python("a", (3, 12, 1)), compat.Python("b", (3, 9, 0))
    first = compat.row(old, "2.13.0", {"core": "5 passed"}, "2.4.6")
    other = compat.row(new, "2.8.0", {"core": "not installed"}, "-")
    again = compat.row(old, "2.13.0", {"core": "1 of 6 failed, first `test_b[x|y]`"}, "2.5.0")
    text = compat.merged(compat.merged("", [first]) + "\nBy hand: nothing.\n", [other, again])
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0] == compat.HEAD and table[2:] == [other, again]
    assert len({line.count("|") for line in table}) == 1
    assert text.startswith("# Tested versions\n") and text.endswith("\nBy hand: nothing.\n")


def test_this_interpreter_is_found_and_an_absent_one_is_refused():
    [python] = compat.chosen([sys.executable])
    assert python.version == sys.version_info[:3]
    with pytest.raises(SystemExit, match=r"No supported Python 3\.10 was found; there are"):
        compat.chosen(["3.10"])


def test_the_pythons_are_those_that_the_package_asks_for():
    """One range: what is required, what the table and make take, and what the workflow tries."""
    least, beyond = (".".join(map(str, version)) for version in (compat.LEAST, compat.BEYOND))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={least},<{beyond}"
    minors = [f"3.{minor}" for minor in range(compat.LEAST[1], compat.BEYOND[1])]
    named = [c.rsplit(" ", 1)[1] for c in project["classifiers"] if c.startswith("Programming Language :: Python ::")]
    assert named == minors
    assert f"not {compat.LEAST} <= sys.version_info < {compat.BEYOND}" in (ROOT / "Makefile").read_text()
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    listed = ", ".join(f'"{minor}"' for minor in minors)
    assert f"python: [{listed}]" in workflow
