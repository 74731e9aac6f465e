"""Searches that are killed, or whose disk fills up, at their n-th file operation; each is a fork of one process.

Run with faults.c preloaded: it reads a line of JSON for each search, and answers with a line. A search has processes of
its own, as everywhere, but forked before anything is opened: to spawn them would take seconds each.
"""

import ctypes
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from types import SimpleNamespace

from faults import MODES  # run as a script: the folder is on the path
from rich.progress import Progress

from ttq_plugin.commands.parts import watch as watches
from ttq_plugin.errors import InputError
from ttq_plugin.search import runner
from ttq_plugin.search.crew.crew import Processes
from ttq_plugin.search.crew.engines import Engine
from ttq_plugin.search.crew.job import Job
from ttq_plugin.search.crew.worker import work, worker_main
from ttq_plugin.search.space.load import parse_space
from ttq_plugin.search.study import insides
from ttq_plugin.search.study import study as studies
from ttq_plugin.search.study.ledger import finished
from ttq_plugin.tracking import store as stores
from ttq_plugin.tracking.faults import store_faults
from ttq_plugin.tracking.records import front


class Standby(Processes):
    """Workers that were forked before they are needed, because a fork must not know of an open database."""

    ready: list = []

    @classmethod
    def prepare(cls, number):
        context = multiprocessing.get_context("fork")
        for _ in range(number):
            asking, asked = context.Pipe()
            process = context.Process(target=cls.wait_for_work, args=(asked,))
            process.start()
            cls.ready.append((process, asking))

    @staticmethod
    def wait_for_work(channel):
        worker_main(channel.recv(), channel)

    def _start(self, job):
        process, channel = self.ready.pop(0)
        channel.send(job)
        return process, channel


def forget_dominated(space, models):
    """What `ttq search` does with the weights of trials off the front."""

    def on_poll(done, running):
        members = front(done, space.objectives)
        for record in done:
            if record.number not in members:
                (models / f"trial-{record.number}.safetensors").unlink(missing_ok=True)

    return on_poll


def follow(space, folder, models, trials, empty):
    """What `ttq search` does with MLflow, with the tables of a new store from a file: they take seconds to make."""
    watches.LAST_PATIENCE, watches._SHORTEST, watches._LONGEST = 0.3, 0.01, 0.05
    stores._empty_database = Path(empty).read_bytes
    ready, bars = SimpleNamespace(simulated=False), Progress(disable=True)
    return watches.Watch(
        space, "s", str(folder / "mlflow"), models, trials, ready, {"seed": 3}, bars, _pause=watches._SHORTEST
    )


def finish(watch):
    """The end of the search in MLflow: the weights of the front's members, the front, and its picture."""
    watch.recorder.sync(watch.records)
    for number in sorted(watch.members()):
        watch.recorder.log_file(watch.models / f"trial-{number}.safetensors", "model", number)
    watch.recorder.finish(watch.records)


def search(asked):
    """One search, begun or resumed, as `ttq search` would do it."""
    folder = Path(asked["folder"])
    storage, models = f"sqlite:///{folder}/studies.db", folder / "models"
    space = parse_space(asked["space"], "s", {"sampler": asked["sampler"], "give_up": {"patience": 0.2}})
    runner.get_engine = lambda name, storage: Engine(Standby, 1)
    Standby.prepare(1 if asked["mode"] == "kill" else 6)
    resume = asked["resume"]
    if resume:  # nothing may have been made yet: then the command is given again as it was
        try:
            studies.load_study(storage, "s")
        except InputError:
            resume = False
    watch = follow(space, folder, models, asked["trials"], asked["empty"]) if asked["empty"] else None
    summary = runner.run_search(
        space, storage, "s", workers=1, trials=asked["trials"], data="collapse", models_dir=models, resume=resume,
        trial_module="fake_trial", on_poll=watch or forget_dominated(space, models), poll_seconds=0.05,
    )  # fmt: skip
    if watch is not None:
        try:
            watch.last(lambda: finish(watch))
        except store_faults() as error:
            return {"unrecorded": str(error)}
    return {"complete": summary.complete, "pruned": summary.pruned, "error": summary.error}


def child(asked, out):
    os.setsid()
    faults = ctypes.CDLL(None)
    faults.arm(ctypes.c_long(asked["at"]), MODES[asked["mode"]], (asked["folder"] + asked["below"]).encode())
    try:
        said = search(asked)
    except InputError as error:
        said = {"refused": str(error)}
    except BaseException:
        said = {"traceback": traceback.format_exc()}
    faults.counted.restype = ctypes.c_long
    os.write(out, json.dumps({**said, "operations": faults.counted()}).encode())
    os.killpg(0, signal.SIGKILL)  # with the workers that were not needed


def warm_up(empty=""):
    """Import what searches import on their way, with MLflow if there is an empty database of its."""
    import torch

    torch.set_num_threads(1)
    space = parse_space((Path(__file__).parent / "conftest.py").read_text().split('"""')[1].lstrip("\\\n"), "s")
    with tempfile.TemporaryDirectory() as folder:
        study = studies.open_study(f"sqlite:///{folder}/warm.db", "s", space, resume=False)
        work(Job(f"sqlite:///{folder}/warm.db", "s", space, 3, 0, trial_module="fake_trial"))
        insides.engine(study).dispose()
        if empty:
            watch = follow(space, Path(folder), Path(folder), 3, empty)
            watch(finished(study), [])
            watch.recorder.finish(watch.records)


def main():
    warm_up(*sys.argv[1:])
    for line in sys.stdin:
        asked = json.loads(line)
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            os.close(reading)
            child(asked, writing)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        os.waitpid(pid, 0)
        print(text or "{}", flush=True)


if __name__ == "__main__":
    main()
