"""The package on other Pythons and torches: an environment for each pair, its tests, and a table of what passed.

``make compat`` runs it, or any Python: ``python tests/compat.py --pythons 3.12 3.13 --torches 2.8.0 2.13.0``. It is no
part of CI: on most Pythons PyPI's torch is the CUDA build of several gigabytes, unless ``--torch-index`` names another
index. Imports nothing but the standard library. The table is docs/compat.md: rows of pairs not asked for stay.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "docs" / "compat.md"
LEAST, BEYOND = (3, 11), (3, 15)
"""The Pythons of ``requires-python``."""

GROUPS = {
    "core": ["tests/core", "tests/native"],
    "NNI": ["tests/nni_adapter"],
    "packed": ["tests/deploy/file"],
    "search": ["tests/search"],
    "CLI": ["tests/commands/test_cli.py"],
}
HEAD = "| Python | torch | numpy | " + " | ".join(GROUPS) + " | machine | date |"
INTRO = """# Tested versions

`make compat` (`tests/compat.py`) creates an environment for each pair of Python and torch versions, with
dependencies as new as their ranges allow, runs the tests of five parts of the package there, and adds a row to this
table. CI tests Python 3.11 with the versions in `constraints.txt`.

"""


@dataclass(frozen=True)
class Python:
    """An interpreter and its version."""

    path: str
    version: tuple[int, int, int]

    @property
    def name(self) -> str:
        return ".".join(map(str, self.version))


def version_of(path: str) -> tuple[int, int, int] | None:
    """The version of an interpreter, or None if it does not run."""
    code = "import sys; print(*sys.version_info[:3])"
    try:
        done = subprocess.run([path, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    major, minor, micro = map(int, done.stdout.split())
    return major, minor, micro


def interpreters() -> list[Python]:
    """The supported interpreters of pyenv and of the path, the newest of each minor version."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    paths = [str(path) for path in root.glob("versions/*/bin/python")]
    paths += [path for minor in range(LEAST[1], BEYOND[1]) if (path := shutil.which(f"python3.{minor}"))]
    best: dict[tuple[int, int], Python] = {}
    for path in paths:
        version = version_of(path)
        if version is None or not LEAST <= version[:2] < BEYOND:
            continue
        if version[:2] not in best or version > best[version[:2]].version:
            best[version[:2]] = Python(path, version)
    return [best[minor] for minor in sorted(best)]


def chosen(asked: list[str]) -> list[Python]:
    """The interpreters asked for, by version (``3.12``) or path; all that are there if none is.

    Raises:
        SystemExit: if one is not there or not supported.
    """
    there = interpreters()
    found = []
    for name in asked:
        matching = [python for python in there if f"{python.name}.".startswith(f"{name}.")]
        if not matching and (version := version_of(name)) and LEAST <= version[:2] < BEYOND:
            matching = [Python(name, version)]
        if not matching:
            raise SystemExit(f"No supported Python {name} was found; there are {', '.join(p.name for p in there)}.")
        found += matching
    return found or there


def install(python: Python, torch: str, folder: Path, index: str | None) -> str | None:
    """Make an environment; None, or in one line why it could not be made."""
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-warn-script-location"]
    of_torch = [*pip, f"torch=={torch}", *(["--index-url", index] if index else [])]
    kept = folder / "torch.txt"
    # The second installation must not replace the torch of the first.
    rest = [*pip, "--constraint", str(kept), "--editable", f"{ROOT}[test]"]
    for command in ([python.path, "-m", "venv", str(folder)], of_torch, rest):
        if command is rest:
            kept.write_text(f"torch=={torch}\n")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
            return next((line for line in said if "ERROR" in line), said[-1]).strip()
    return None


def outcome(python: Path, tests: list[str], folder: Path, limit: float) -> str:
    """What the tests of one part come to, in words."""
    file = folder / "junit.xml"
    file.unlink(missing_ok=True)
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={file}", *tests]
    try:
        subprocess.run(command, cwd=ROOT, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return f"over {limit:.0f} s"
    return counted(file)


def counted(file: Path) -> str:
    """The counts of a pytest report, in words; what failed first is named."""
    if not file.exists():
        return "did not start"
    suites = ET.parse(file).getroot().iter("testsuite")
    tests = failures = skipped = 0
    for suite in suites:
        tests += int(suite.get("tests", 0))
        failures += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    passed = tests - failures - skipped
    if not failures:
        return f"{passed} passed" if passed else "none ran"
    first = next(case for case in ET.parse(file).iter("testcase") if any(x.tag in ("failure", "error") for x in case))
    return f"{failures} of {tests - skipped} failed, first `{first.get('name')}`"


def row(python: Python, torch: str, cells: dict[str, str], numpy: str) -> str:
    """A line of the table."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    where = f"{platform.system()} {platform.machine()}"
    values = [python.name, torch, numpy, *(cells.get(name, "-") for name in GROUPS), where, today]
    return "| " + " | ".join(value.replace("|", "/") for value in values) + " |"


def merged(text: str, rows: list[str]) -> str:
    """The report with new rows: each takes the place of an earlier one of its Python and torch."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("| Python ")), None)
    if start is None:
        lines = [*INTRO.rstrip().splitlines(), ""]
        start = len(lines)
    end = start
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    found = {key_of(line): line for line in [*lines[start + 2 : end], *rows]}
    rule = re.sub(r"[^|]+", "---", HEAD)
    return "\n".join([*lines[:start], HEAD, rule, *(found[key] for key in sorted(found)), *lines[end:]]) + "\n"


def key_of(line: str) -> tuple[list[int], list[int]]:
    python, torch = (cell.strip() for cell in line.split("|")[1:3])
    numbers = [tuple(int(n) for n in re.findall(r"\d+", x)) for x in (python, torch)]
    return tuple(numbers)  # type: ignore[return-value]


def numpy_of(python: Path) -> str:
    code = "import json, numpy; print(json.dumps(numpy.__version__))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else "-"


def tried(python: Python, torch: str, arguments: argparse.Namespace) -> tuple[str, bool]:
    """A pair's row, and whether all went well."""
    folder = arguments.folder / f"python{python.name}-torch{torch}"
    print(f"Python {python.name}, torch {torch}: installing", flush=True)
    reason = install(python, torch, folder, arguments.torch_index)
    if reason:
        print(f"  not installed: {reason}", flush=True)
        return row(python, torch, dict.fromkeys(GROUPS, "not installed"), "-"), False
    own, cells = folder / "bin" / "python", {}
    for name in arguments.groups:
        cells[name] = outcome(own, GROUPS[name], folder, arguments.limit)
        print(f"  {name}: {cells[name]}", flush=True)
    good = all(cell.endswith("passed") for cell in cells.values())
    return row(python, torch, cells, numpy_of(own)), good


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pythons", nargs="*", default=[], help="versions or paths; none: of pyenv and the path")
    parser.add_argument("--torches", nargs="+", default=["2.8.0", "2.13.0"])
    parser.add_argument("--torch-index", help="an index of CPU builds of torch, in place of PyPI's CUDA builds")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "compat", help="of the environments")
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument("--limit", type=float, default=3600, help="seconds for the tests of one part")
    parser.add_argument("--list", action="store_true", help="only say which pairs it would try")
    options = parser.parse_args(arguments)
    options.folder = options.folder.resolve()
    pairs = [(python, torch) for python in chosen(options.pythons) for torch in options.torches]
    if options.list:
        print("\n".join(f"Python {python.name} ({python.path}), torch {torch}" for python, torch in pairs))
        return 0
    good = True
    for python, torch in pairs:
        line, well = tried(python, torch, options)
        good &= well
        options.report.parent.mkdir(exist_ok=True)
        text = options.report.read_text() if options.report.exists() else ""
        options.report.write_text(merged(text, [line]))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
