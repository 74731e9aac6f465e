"""Searches whose workers are killed, whose disk fills up, whose servers go away: nothing lost, nothing twice."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from types import SimpleNamespace

import psutil
import pytest
from rich.progress import Progress
from services import free_port

from ttq_plugin.commands.parts.watch import Watch
from ttq_plugin.search.crew.job import Job
from ttq_plugin.search.crew.worker import _next, _tell
from ttq_plugin.search.runner import run_search
from ttq_plugin.search.study.ledger import counted, finished, reclaim
from ttq_plugin.search.study.study import load_study, open_study
from ttq_plugin.tracking import open_store, ui

OPTIONS = {"trial_module": "fake_trial", "poll_seconds": 0.1}


def watch(space, store, folder, target):
    """What `ttq search` does with the finished trials: they go to MLflow."""
    bars = Progress(disable=True)
    return Watch(space, "s", store, folder / "models", target, SimpleNamespace(simulated=False), {"seed": 3}, bars)


def runs_of(watch):
    """Every trial's runs in MLflow, by number."""
    recorder = watch.recorder
    runs = recorder.store.client.search_runs([recorder.experiment_id], "tags.role = 'trial'", max_results=5000)
    return {
        number: [run for run in runs if int(run.data.tags["trial"]) == number]
        for number in {int(run.data.tags["trial"]) for run in runs}
    }


def check_mlflow(watch, storage):
    """One ended run for each finished trial, with what the study says."""
    watch.recorder.finish(watch.records)
    records, runs = finished(load_study(storage, "s")), runs_of(watch)
    assert sorted(runs) == [record["number"] for record in records]
    for record in records:
        (run,) = runs[record["number"]]
        assert run.info.status == {"complete": "FINISHED", "failed": "FAILED"}[record["state"]]
        if record["state"] == "complete":
            assert run.data.metrics["cr_gain_total"] == pytest.approx(record["metrics"]["cr_gain_total"], rel=1e-5)


def given(trial):
    """Its parameters: those drawn, and those it was handed, which are all that one killed before drawing has."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def check_retries(storage):
    """What was lost is there once more, with the same parameters, and counts once."""
    trials = load_study(storage, "s").trials
    retries = {trial.user_attrs["again_of"]: trial for trial in trials if "again_of" in trial.user_attrs}
    lost = [trial for trial in trials if trial.user_attrs.get("again") and trial.state.name == "FAIL"]
    assert len(retries) == sum("again_of" in trial.user_attrs for trial in trials), "none was tried again twice"
    for trial in lost:
        if trial.params:  # else it was killed before anything was drawn
            assert given(trial).items() <= given(retries[trial.number]).items()
    return lost


class Killer(threading.Thread):
    """Kills workers at random moments, the next one when a trial has been finished since."""

    def __init__(self, storage, kills):
        super().__init__(daemon=True)
        self.storage, self.left, self.done, self.over = storage, kills, 0, threading.Event()

    def finished(self):
        with contextlib.suppress(sqlite3.Error, IndexError):
            connection = sqlite3.connect(self.storage.removeprefix("sqlite:///"))
            return connection.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0]
        return 0

    def run(self):
        moments, before = random.Random(5), 0
        while self.left and not self.over.is_set():
            time.sleep(moments.uniform(0, 0.2))
            now, workers = self.finished(), [p for p in psutil.Process().children() if self.works(p)]
            if now > before and workers:
                moments.choice(workers).kill()
                before, self.left, self.done = now, self.left - 1, self.done + 1

    @staticmethod
    def works(process):
        with contextlib.suppress(psutil.Error):  # it may end in this very moment
            return "spawn_main" in " ".join(process.cmdline())
        return False


def test_twenty_workers_killed_at_random_moments(space, storage, tmp_path):
    seen, watched = {}, watch(space, str(tmp_path / "mlflow_runs"), tmp_path, 60)

    def follow(done, running):
        for record in done:
            assert seen.setdefault(record["number"], record) == record, "a finished trial changed"
        watched(done, running)

    killer = Killer(storage, 20)
    killer.start()
    summary = run_search(space, storage, "s", workers=3, trials=60, data="sleep=0.1", on_poll=follow, **OPTIONS)
    killer.over.set()
    killer.join()
    assert killer.done == 20
    assert summary.error is None and summary.complete + summary.failed == 60
    records = finished(load_study(storage, "s"))
    assert seen.keys() == {record["number"] for record in records}
    gone = [t for t in load_study(storage, "s").trials if t.state.name == "FAIL" and not t.user_attrs["again"]]
    assert len(gone) == summary.failed <= 2
    for trial in gone:  # one killed before its trial has its name is noticed by somebody who knows of no signal
        signalled = " (signal 9)" if "worker" in trial.user_attrs else ""
        assert trial.user_attrs["reason"] == f"worker killed{signalled}, given up after 3 attempts"
    assert counted(load_study(storage, "s")) == 60
    lost = check_retries(storage)
    assert len(lost) == summary.lost <= 20
    check_mlflow(watched, storage)
    with sqlite3.connect(tmp_path / "studies.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_reclaimer_killed_between_ending_and_enqueueing_loses_nothing(space, storage, monkeypatch):
    study = open_study(storage, "s", space, resume=False)
    handed = _next(study, Job(storage, "s", space, 5, 3, worker="dead.0"))
    with monkeypatch.context() as patch:
        patch.setattr(type(study), "enqueue_trial", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            reclaim(study, lambda trial: "worker killed")
    assert counted(study) == 0 and reclaim(study, lambda trial: None) == 0
    assert [t.params for t in study.trials if t.user_attrs.get("again_of") == handed[0].number] == [{}]
    again = _next(study, Job(storage, "s", space, 5, 3, worker="live.0"))
    while again[0].user_attrs.get("again_of") != handed[0].number:
        again = _next(study, Job(storage, "s", space, 5, 3, worker=f"live.{again[0].number}"))
    assert again[1] == handed[1]


def test_a_worker_that_was_taken_for_dead_and_comes_back_changes_nothing(space, storage, tmp_path, monkeypatch):
    study = open_study(storage, "s", space, resume=False)
    with monkeypatch.context() as patch:
        patch.setattr("ttq_plugin.search.crew.processes._machine", lambda: "another one")
        slow, _ = _next(study, Job(storage, "s", space, 5, 3, worker="far.0"))
    here = Job(storage, "s", space, 5, 3, worker="here.0")
    assert _next(study, here)[0].number != slow.number, "its last sign of life is fresh"
    assert counted(study) == 2
    with sqlite3.connect(tmp_path / "studies.db") as connection:
        connection.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-10 minutes')")
    _next(study, Job(storage, "s", space, 5, 3, worker="here.1"))
    ended = study.trials[slow.number]
    assert ended.state.name == "FAIL" and ended.user_attrs["reason"].startswith("worker gone (no sign of life of ")
    _tell(study, slow, {"metrics": {"mcc": 1.0}, "seconds": 1.0}, [1.0, 1.0, 1.0])
    assert study.trials[slow.number].state.name == "FAIL" and "metrics" not in study.trials[slow.number].user_attrs
    assert len(check_retries(storage)) == 1 and counted(study) == 2


class SmallDisk:
    """A folder that can be full: a small tmpfs where mounting is allowed, else this process tree's own limit."""

    def __init__(self, folder):
        self.folder, self.ballast = folder, folder / "ballast"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
        self.mounted = os.getuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
        self.tree = [psutil.Process()]

    def fill(self):
        if self.mounted:
            with contextlib.suppress(OSError), open(self.ballast, "wb", buffering=0) as file:
                while True:
                    file.write(b"0" * 4096)
            return
        for process in [*self.tree, *self.tree[0].children()]:
            process.rlimit(psutil.RLIMIT_FSIZE, (8192, process.rlimit(psutil.RLIMIT_FSIZE)[1]))

    def free(self):
        if self.mounted:
            return self.ballast.unlink()
        for process in [*self.tree, *self.tree[0].children()]:
            hard = process.rlimit(psutil.RLIMIT_FSIZE)[1]
            process.rlimit(psutil.RLIMIT_FSIZE, (hard, hard))

    def close(self):
        if self.mounted:
            # Lazily: MLflow keeps its database open.
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    disk = SmallDisk(tmp_path / "small")
    yield disk
    disk.close()


def test_a_full_disk_is_waited_for(space, small_disk, capfd):
    storage, store = f"sqlite:///{small_disk.folder}/studies.db", open_store(small_disk.folder / "mlflow_runs")
    watched, waits, state = watch(space, store, small_disk.folder, 16), [], {}

    def free():
        state["stuck"] = len(finished(load_study(storage, "s")))
        small_disk.free()

    def follow(done, running):
        watched(done, running)
        if len(done) >= 4 and "full" not in state:
            state["full"], state["done"] = True, len(done)
            small_disk.fill()
            # From a thread: the search itself may be waiting when the disk has room again.
            threading.Timer(3, free).start()

    summary = run_search(
        space, storage, "s", workers=2, trials=16, data="sleep=0.05", models_dir=small_disk.folder / "models",
        on_poll=follow, on_wait=waits.append, **OPTIONS,
    )  # fmt: skip
    assert state["stuck"] <= state["done"] + 2, "nothing could be written, at most what had been begun"
    assert (summary.complete, summary.failed, summary.error) == (16, 0, None)
    while watched._logged < len(watched.records):
        watched(finished(load_study(storage, "s")), [])
    check_mlflow(watched, storage)
    with sqlite3.connect(small_disk.folder / "studies.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_mlflow_server_that_goes_away_gets_everything_later(space, storage, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("ttq_plugin.commands.parts.watch._SHORTEST", 0.2)
    port, local = free_port(), open_store(tmp_path / "mlflow_runs")
    server = ui.start(local, port=port)
    try:
        ui.wait_ready(f"http://127.0.0.1:{port}", process=server)
        watched = watch(space, open_store(f"http://127.0.0.1:{port}"), tmp_path, 14)
        watched._pause = 0.2
        state = {}

        def follow(done, running):
            nonlocal server
            watched(done, running)
            if watched._logged >= 3 and "gone" not in state:
                state["gone"] = watched._logged
                ui.stop(server)

        summary = run_search(space, storage, "s", workers=2, trials=14, data="sleep=0.4", on_poll=follow, **OPTIONS)
        assert (summary.complete, summary.error) == (14, None), "the search went on without it"
        assert watched._logged < 14
        server = ui.start(local, port=port)
        ui.wait_ready(f"http://127.0.0.1:{port}", process=server)
        watched.last(lambda: check_mlflow(watched, storage))
        assert Counter(len(runs) for runs in runs_of(watched).values()) == {1: 14}
        said = capfd.readouterr().err
        assert said.count("MLflow cannot be written") == 1 and "are kept and logged later" in " ".join(said.split())
    finally:
        if server.poll() is None:
            ui.stop(server)
    assert server.returncode in {0, -signal.SIGTERM, -signal.SIGINT}
