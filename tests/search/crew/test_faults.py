"""Searches whose workers are killed, whose disk fills up, whose servers go away: nothing lost, nothing twice."""

import contextlib
import math
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from types import SimpleNamespace

import fake_trial
import psutil
import pytest
from rich.progress import Progress
from services import free_port

from ttq_plugin.commands.parts import front
from ttq_plugin.commands.parts.watch import Watch
from ttq_plugin.search.crew.job import Job
from ttq_plugin.search.crew.telling import keep_weights, tell
from ttq_plugin.search.crew.worker import _next
from ttq_plugin.search.runner import run_search
from ttq_plugin.search.study import insides
from ttq_plugin.search.study.ledger import counted, finished, losses, reclaim
from ttq_plugin.search.study.study import load_study, open_study
from ttq_plugin.tasks import get_task
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
    assert sorted(runs) == [record.number for record in records]
    for record in records:
        (run,) = runs[record.number]
        assert run.info.status == {"complete": "FINISHED", "failed": "FAILED"}[record.state]
        if record.state == "complete":
            assert run.data.metrics["cr_gain_total"] == pytest.approx(record.metrics["cr_gain_total"], rel=1e-5)


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
            assert seen.setdefault(record.number, record) == record, "a finished trial changed"
        watched(done, running)

    killer = Killer(storage, 20)
    killer.start()
    summary = run_search(space, storage, "s", workers=3, trials=60, data="sleep=0.1", on_poll=follow, **OPTIONS)
    killer.over.set()
    killer.join()
    assert killer.done == 20
    assert summary.error is None and summary.complete + summary.failed == 60
    records = finished(load_study(storage, "s"))
    assert seen.keys() == {record.number for record in records}
    gone = [record for record in records if record.state == "failed"]
    assert len(gone) == summary.failed <= 2
    for record in gone:
        assert record.reason == "worker killed (signal 9), given up after 3 attempts"
    study = load_study(storage, "s")
    assert counted(study) == 60 == len(study.trials), "whatever was lost has its old number"
    reasons = sum(losses(study).values(), [])
    assert len(reasons) == summary.lost <= 20
    # One killed before its trial has its name is noticed by somebody who knows of no signal.
    assert set(reasons) <= {"worker killed (signal 9)", "interrupted"}
    check_mlflow(watched, storage)
    with sqlite3.connect(tmp_path / "studies.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_reclaimer_killed_in_the_middle_changes_nothing(space, storage, monkeypatch):
    study = open_study(storage, "s", space, resume=False)
    handed = _next(study, Job(storage, "s", space, 5, 3, worker="dead.0"))
    before = study.trials[0]
    with monkeypatch.context() as patch:
        patch.setattr(insides, "_delete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            reclaim(study, lambda trial: "worker killed", 3)
    assert study.trials[0] == before and losses(study) == {}
    assert reclaim(study, lambda trial: "worker killed", 3) == 1 and counted(study) == 0
    again = _next(study, Job(storage, "s", space, 5, 3, worker="live.0"))
    assert again[0].number == handed[0].number and again[1] == handed[1] and len(study.trials) == 2


def test_a_worker_that_was_taken_for_dead_and_comes_back_changes_nothing(space, storage, tmp_path, monkeypatch):
    study = open_study(storage, "s", space, resume=False)
    away = Job(storage, "s", space, 5, 3, worker="far.0", models_dir=str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("ttq_plugin.search.crew.processes._machine", lambda: "another one")
        slow, _ = _next(study, away)
    here = Job(storage, "s", space, 5, 3, worker="here.0")
    assert _next(study, here)[0].number != slow.number, "its last sign of life is fresh"
    assert counted(study) == 2
    with sqlite3.connect(tmp_path / "studies.db") as connection:
        connection.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-10 minutes')")
    again, _ = _next(study, Job(storage, "s", space, 5, 3, worker="here.1"))
    assert again.number == slow.number and counted(study) == 2
    ((lost, reasons),) = losses(study).items()
    assert lost == slow.number and reasons[0].startswith("worker lost (no sign of life from ")
    before = study.trials[lost]
    tell(study, slow, away, {"metrics": {"mcc": 1.0}, "seconds": 1.0}, [1.0, 1.0, 1.0])
    keep_weights(study, slow, away, fake_trial, "its model", {})
    assert study.trials[lost] == before and before.user_attrs["worker"]["name"] == "here.1"
    assert not list(tmp_path.glob("*.safetensors"))


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
                watched._again = 0.0  # it looks at once, however soon the trials are done

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


def test_a_store_that_comes_back_just_before_the_end_gets_every_trial(space, storage, tmp_path, monkeypatch):
    """No trial is in MLflow when the front is tested: what is told of its members must not come first."""
    summary = run_search(space, storage, "s", workers=1, trials=3, **OPTIONS)
    watched = watch(space, str(tmp_path / "mlflow_runs"), tmp_path, 3)
    watched.ready.score, watched.ready.parts, watched.ready.task = 99.0, {}, get_task("mnist-cnn")
    watched._again = math.inf  # the store is away all the time
    watched(finished(load_study(storage, "s")), [])

    def tested(watch, members, data, seed):
        for number in members:
            watch.recorder.log_test(number, 0.5)
        return dict.fromkeys([-1, *members], 0.5), {}

    monkeypatch.setattr(front, "_test", tested)
    result = watched.last(lambda: front.finish(watched, summary, None, tmp_path, 3, {}, "none"))
    assert {row["test_mcc"] for row in result["front"]} == {0.5}
    check_mlflow(watched, storage)
    recorder = watched.recorder
    (own,) = recorder.store.client.search_runs([recorder.experiment_id], "tags.role = 'study'")
    assert own.info.status == "FINISHED"
