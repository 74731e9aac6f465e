"""A disk that fills up at any operation of a write: one sentence, nothing half-written, older files as they were."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FILES = {
    "packed": ["out"],
    "weights": ["out"],
    "text": ["out"],
    "c": ["out.c", "out.h"],
    "c-int8": ["out.c", "out.h", "out_test.c"],
}


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """The process in filling.py, with faults.c between it and its files."""
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    code = ROOT / "tests/search/faults.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", library, code, "-ldl"], check=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.filling"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    def asked(form, folder, mode, at=0, *, new):
        question = {"form": form, "folder": str(folder), "mode": mode, "at": at, "new": new}
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield asked
    process.kill()
    process.wait(60)


SAMPLED = 5
"""Operations that are tried of each write, beside the first and the last, where not all are."""


def tried(operations, every):
    between = range(2, operations)
    drawn = between if every else random.Random(operations).sample(between, min(SAMPLED, len(between)))
    return [1, *sorted(drawn), operations]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)], ids=["some", "all"])
@pytest.mark.parametrize("new", [False, True], ids=["over older files", "in a new folder"])
@pytest.mark.parametrize("form", FILES)
def test_a_disk_that_fills_up_at_any_operation(writer, tmp_path, form, new, every):
    whole = tmp_path / "whole"
    whole.mkdir()
    told = writer(form, whole, "count", new=new)
    assert told["said"] == "" and told["operations"] >= 4
    written = {path.name: path.read_bytes() for path in (whole / ("new" if new else "")).iterdir()}
    assert sorted(written) == FILES[form]
    folder = tmp_path / "full"
    folder.mkdir()
    older = {} if new else {name: b"older" for name in written}
    failed = 0
    for at in tried(told["operations"], every):
        for name, content in older.items():
            (folder / name).write_bytes(content)
        said = writer(form, folder, "full", at, new=new)["said"]
        left = {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
        if said:
            failed += 1
            assert said.endswith("cannot be written (No space left on device); choose another place."), said
            assert left == older and (not new or not (folder / "new").exists()), at
        else:  # what was left to do needs no room
            assert {Path(name).name: content for name, content in left.items()} == written, at
            (folder / "new").exists() and [path.unlink() for path in (folder / "new").iterdir()]
            (folder / "new").exists() and (folder / "new").rmdir()
    assert failed >= (2 * len(written) if every else 1)
