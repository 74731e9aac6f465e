"""A search that is killed, or whose disk fills up, at any of its file operations, ends as if nothing had happened."""

import json
import os
import subprocess
import sys
import tempfile
from itertools import cycle
from pathlib import Path

import pytest

from ttq_plugin.search.study.study import load_study

HERE = Path(__file__).parents[1]
CLOCKS = {"worker", "started", "seconds", "saved"}
"""What a trial tells of the process and the time that it ran in."""


class Laboratory:
    """The process in crashes.py, with faults.c between it and its files."""

    def __init__(self, folder, space_text):
        library = folder / "faults.so"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-w", "-o", library, HERE / "faults.c", "-ldl"], check=True
        )  # fmt: skip
        self.space_text, self.folder = space_text, folder
        self.process = subprocess.Popen(
            [sys.executable, HERE / "crashes.py"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "LD_PRELOAD": str(library)},
        )  # fmt: skip

    def place(self):
        """A new folder, in memory where there is some: what is asked is what was written, not what was synced."""
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else self.folder
        return tempfile.TemporaryDirectory(prefix="ttq-crash-", dir=memory)

    def search(self, folder, *, mode="count", at=0, resume=False, sampler="tpe", trials=3):
        asked = {"folder": str(folder), "mode": mode, "at": at, "resume": resume, "sampler": sampler, "trials": trials}
        self.process.stdin.write(json.dumps({**asked, "space": self.space_text}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def whole(self, **options):
        """What a search leaves that nothing happened to, and how many operations it took."""
        with self.place() as folder:
            said = self.search(folder, **options)
            assert said["complete"] + said["pruned"] == options.get("trials", 3) and said["error"] is None, said
            self.good = {**said, "operations": 0}
            return left(folder), said["operations"]

    def survives(self, mode, at, expected):
        with self.place() as folder:
            said = self.search(folder, mode=mode, at=at)
            assert "traceback" not in said, f"{mode} at operation {at}: {said['traceback']}"
            if mode == "kill":
                assert said == {}, "it was killed without a word"
            said = self.search(folder, resume=True)
            assert {**said, "operations": 0} == self.good, f"{mode} at operation {at}"
            assert left(folder) == expected, f"{mode} at operation {at}"


def left(folder):
    """All trials but for their clocks, and the names of all files but for SQLite's own, which come and go."""
    trials = [
        (
            trial.number, trial.state.name, trial.params, trial.values, trial.constraints,
            {key: value for key, value in trial.user_attrs.items() if key not in CLOCKS},
        )
        for trial in load_study(f"sqlite:///{folder}/studies.db", "s").trials
    ]  # fmt: skip
    files = {str(path.relative_to(folder)): path for path in Path(folder).rglob("*") if path.is_file()}
    models = {name: path.read_text() for name, path in files.items() if name.endswith(".safetensors")}
    return trials, models, {name for name in files if not name.endswith(("-wal", "-shm"))}


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    from tests.search.conftest import SPACE

    made = Laboratory(
        tmp_path_factory.mktemp("laboratory"), f"{SPACE}stop_early: {{collapsed: true, dominated: true}}\n"
    )
    yield made
    made.process.stdin.close()
    made.process.wait(60)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid", "nsga2"])
def test_killed_again_and_again_it_gives_the_trials_of_a_search_that_was_not(laboratory, sampler):
    options = {"sampler": sampler, "trials": 13}
    expected, operations = laboratory.whole(**options)
    with laboratory.place() as folder:
        steps, kills, said = cycle([190, 433, 251, 610, 387]), 0, {}
        while not said and kills < 100:
            said = laboratory.search(folder, mode="kill", at=next(steps), resume=True, **options)
            kills += not said
        assert kills >= 5, operations
        assert said["complete"] + said["pruned"] == 13 and left(folder) == expected


@pytest.mark.parametrize("mode", ["kill", "full"])
def test_at_some_of_its_file_operations(laboratory, mode):
    expected, operations = laboratory.whole()
    for at in range(7, operations, operations // 12):
        laboratory.survives(mode, at, expected)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["kill", "full"])
def test_at_each_of_its_file_operations(laboratory, mode):
    expected, operations = laboratory.whole()
    for at in range(1, operations):
        laboratory.survives(mode, at, expected)
