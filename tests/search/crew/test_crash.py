"""A search that is killed, or whose disk fills up, at any of its file operations, ends as if nothing had happened."""

import csv
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.search.conftest import SPACE
from ttq_plugin.search.study.study import load_study
from ttq_plugin.tracking.store import _empty_database

HERE = Path(__file__).parents[1]
CLOCKS = {"worker", "started", "seconds", "saved"}
"""What a trial tells of the process and the time that it ran in."""


class Laboratory:
    """The process in crashes.py, with faults.c between it and its files."""

    def __init__(self, folder, space_text, empty=""):
        library = folder / "faults.so"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-w", "-o", library, HERE / "faults.c", "-ldl"], check=True
        )  # fmt: skip
        self.space_text, self.folder = space_text, folder
        self.process = subprocess.Popen(
            [sys.executable, HERE / "crashes.py", *([empty] if empty else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "LD_PRELOAD": str(library)},
        )  # fmt: skip

    def place(self):
        """A new folder, in memory where there is some: what is asked is what was written, not what was synced."""
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else self.folder
        return tempfile.TemporaryDirectory(prefix="ttq-crash-", dir=memory)

    def search(self, folder, *, mode="count", at=0, resume=False, sampler="tpe", trials=3, empty="", below=""):
        asked = {"folder": str(folder), "mode": mode, "at": at, "resume": resume, "sampler": sampler, "trials": trials}
        asked |= {"empty": str(empty), "below": below}
        self.process.stdin.write(json.dumps({**asked, "space": self.space_text}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def whole(self, **options):
        """What a search leaves that nothing happened to, and how many operations it took."""
        with self.place() as folder:
            said = self.search(folder, **options)
            assert said["complete"] + said["pruned"] == options.get("trials", 3) and said["error"] is None, said
            self.good = {**said, "operations": 0}
            self.recorded = recorded(folder) if "empty" in options else None
            return left(folder), said["operations"]

    def survives(self, mode, at, expected, **options):
        with self.place() as folder:
            said = self.search(folder, mode=mode, at=at, **options)
            assert "traceback" not in said, f"{mode} at operation {at}: {said['traceback']}"
            if mode == "kill":
                assert said == {}, "it was killed without a word"
            said = self.search(folder, resume=True, **options)
            assert {**said, "operations": 0} == self.good, f"{mode} at operation {at}"
            assert left(folder) == expected, f"{mode} at operation {at}"
            return recorded(folder) if options else None


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
    # MLflow's artifacts lie under names of its own making: see recorded.
    files = {name: path for name, path in files.items() if not name.startswith("mlflow/artifacts")}
    models = {name: path.read_text() for name, path in files.items() if name.endswith(".safetensors")}
    return trials, models, {name for name in files if not name.endswith(("-wal", "-shm"))}


def recorded(folder):
    """What MLflow holds: of each run its end, tags, parameters, metrics and artifacts, without clocks and numbers."""
    with closing(sqlite3.connect(f"{folder}/mlflow/mlflow.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        runs = database.execute("SELECT run_uuid, status, artifact_uri FROM runs WHERE lifecycle_stage = 'active'")
        found = []
        for run, status, place in runs.fetchall():
            tags, parameters, metrics = (
                dict(database.execute(f"SELECT key, value FROM {table} WHERE run_uuid = ?", (run,)))
                for table in ("tags", "params", "latest_metrics")
            )
            tags = {key: value for key, value in tags.items() if key != "mlflow.parentRunId"}
            metrics.pop("duration_seconds", None)
            found.append(
                (tags.get("trial", ""), status, tags, parameters, metrics, artifacts(Path(urlsplit(place).path)))
            )
    return sorted(found, key=lambda run: run[0])


def artifacts(folder):
    """Names and contents of a run's artifacts; of pictures only that they are whole, of tables all but the clock."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".png":
            content = content[-12:]
        elif path.suffix == ".csv":
            rows = list(csv.DictReader(content.decode().splitlines()))
            content = [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]
        found[str(path.relative_to(folder))] = content
    return found


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    made = Laboratory(
        tmp_path_factory.mktemp("laboratory"),
        f"{SPACE}stop_early: {{collapsed: true, dominated: true, halving: {{eta: 2, rungs: 2}}}}\n",
    )
    yield made
    made.process.stdin.close()
    made.process.wait(60)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid", "nsga2"])
def test_killed_again_and_again_it_gives_the_trials_of_a_search_that_was_not(laboratory, sampler):
    options = {"sampler": sampler, "trials": 13}
    expected, operations = laboratory.whole(**options)
    with laboratory.place() as folder:
        steps, kills, said = cycle([160, 340, 200, 470, 300]), 0, {}
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


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A laboratory whose searches are recorded in MLflow, and what one leaves there that nothing happened to."""
    folder = tmp_path_factory.mktemp("recording")
    empty = folder / "empty.db"
    empty.write_bytes(_empty_database())
    made = Laboratory(folder, f"{SPACE}stop_early: {{collapsed: true, dominated: true}}\n", empty)
    made.options = {"empty": empty, "below": "/mlflow"}
    made.expected, made.operations = made.whole(**made.options)
    yield made
    made.process.stdin.close()
    made.process.wait(60)


def assert_recorded(laboratory, mode, at):
    assert laboratory.survives(mode, at, laboratory.expected, **laboratory.options) == laboratory.recorded, (
        f"{mode} at MLflow's operation {at}"
    )


def test_what_is_recorded_is_what_was_searched(recording):
    trials, models, _ = recording.expected
    study, *runs = recording.recorded
    assert study[1] == "FINISHED" and sorted(study[5]) == ["front.csv", "front.png"]
    assert [int(run[0]) for run in runs] == [trial[0] for trial in trials] and len(study[5]["front.csv"]) == len(models)
    assert {f"models/trial-{run[0]}.safetensors" for run in runs if run[5]} == set(models)
    assert {run[2]["pareto"] for run in runs if run[5]} == {"true"}


@pytest.mark.parametrize("mode", ["kill", "full"])
def test_at_some_of_mlflow_s_own_file_operations(recording, mode):
    for at in range(4, recording.operations, recording.operations // 5):
        assert_recorded(recording, mode, at)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["kill", "full"])
def test_at_each_of_mlflow_s_own_file_operations(recording, mode):
    for at in range(1, recording.operations):
        assert_recorded(recording, mode, at)
