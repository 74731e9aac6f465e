"""What a search costs beyond its trainings as its trials grow in number: time a trial, the search's look, and memory.

    python -m tests.benchmarks.bench_scale sqlite --sizes 0 1000 3000 10000
    python -m tests.benchmarks.bench_scale postgresql --sizes 0 10000 --processes 8 --threads 8 --pause 15

No trial trains: each waits `--pause` seconds and gets values in closed form, through the functions that a worker uses.
For each size, a new study is filled with that many finished trials of about 4 kB by one bulk insertion, and the trials
after them are measured. Workers are threads of a few processes, each with a database connection of its own. Printed:
quartiles of the time to be handed a trial (lock, count, draw) and to tell its result, what one look of the search
itself takes when nothing is new (with the front, as the progress bar shows it), and the memory of one process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import resource
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.storages._rdb import models
from rich.progress import Progress
from sqlalchemy import insert

sys.path.insert(0, str(Path(__file__).parents[1] / "search"))
from services import Postgres

from ttq_plugin.commands.parts.watch import Watch
from ttq_plugin.search.crew.crew import Processes
from ttq_plugin.search.crew.job import Job
from ttq_plugin.search.crew.loop import Loop
from ttq_plugin.search.crew.telling import tell
from ttq_plugin.search.crew.worker import _next
from ttq_plugin.search.space.load import load_space
from ttq_plugin.search.study import insides
from ttq_plugin.search.study.study import load_study, open_study

SPACE = load_space("mnist-cnn", {"paper": [], "first": []})
CURVE = {"loss": [float(f"{1 / epoch:.6g}") for epoch in range(1, 31)]}
MORE = {f"measure_{index}": index / 7 for index in range(12)}


def result(numbers: np.random.Generator) -> tuple[list[float], dict[str, Any]]:
    """A trial's objectives, of which few are on the front, and the attributes that it is told with."""
    size = float(numbers.uniform(0.5, 0.98))
    values = [float(0.96 - 0.2 * size**8 - numbers.exponential(0.02)), size, 0.5 + size / 2]
    metrics = dict(zip(SPACE.objectives, values, strict=True)) | MORE
    return values, {"metrics": metrics, "notes": ["a note"], "seconds": 1.0, "curves": CURVE}


def filled(study: optuna.Study, size: int) -> None:
    """Put finished trials into a study, all tables at once."""
    memory, numbers = optuna.create_study(directions=["maximize"] * 3), np.random.default_rng(0)
    memory.sampler = optuna.samplers.RandomSampler(seed=0)
    rows: dict[Any, list[dict[str, Any]]] = {}
    own, begun, first = insides.study_id(study), datetime.now(), insides.study_id(study) * 100_000
    for number in range(size):
        trial, (values, told) = memory.ask(), result(numbers)
        settings = SPACE.settings(SPACE.suggest(trial), 0)
        told |= {"worker": {"name": "earlier.0"}, "origin": "search", "seed": 0, "started": time.time()}
        told["parameters"] = {name: value for name, value in settings.items() if value is not None and name != "task"}
        key = first + number
        row = {"trial_id": key, "number": number, "study_id": own, "state": optuna.trial.TrialState.COMPLETE}
        rows.setdefault(models.TrialModel, []).append(row | {"datetime_start": begun, "datetime_complete": begun})
        for name, distribution in trial.distributions.items():
            value = distribution.to_internal_repr(trial.params[name])
            text = optuna.distributions.distribution_to_json(distribution)
            entry = {"trial_id": key, "param_name": name, "param_value": value, "distribution_json": text}
            rows.setdefault(models.TrialParamModel, []).append(entry)
        for index, value in enumerate(values):
            kind = models.TrialValueModel.TrialValueType.FINITE
            entry = {"trial_id": key, "objective": index, "value": value, "value_type": kind}
            rows.setdefault(models.TrialValueModel, []).append(entry)
        for name, note in told.items():
            entry = {"trial_id": key, "key": name, "value_json": json.dumps(note)}
            rows.setdefault(models.TrialUserAttributeModel, []).append(entry)
    with insides.engine(study).begin() as connection:
        for table, entries in rows.items():
            connection.execute(insert(table), entries)
        if size and connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT setval(pg_get_serial_sequence('trials', 'trial_id'), {first + size})")


def works(job: Job, count: int, pause: float, found: list[tuple[float, float]]) -> None:
    """One simulated worker: so many trials, each a pause long."""
    study, numbers = load_study(job.storage, job.study_name), np.random.default_rng(abs(hash(job.worker)))
    time.sleep(float(numbers.uniform(0, pause)))
    for _ in range(count):
        begun = time.perf_counter()
        handed = _next(study, job)
        assert handed is not None
        taken = time.perf_counter() - begun
        time.sleep(pause * float(numbers.uniform(0.5, 1.5)))
        values, told = result(numbers)
        begun = time.perf_counter()
        tell(study, handed[0], job, told, values)
        found.append((taken, time.perf_counter() - begun))


def process(job: Job, threads: int, count: int, pause: float, channel: Any) -> None:
    """Simulated workers that share a process; sends their times and the process's largest memory in MiB."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found: list[tuple[float, float]] = []
    jobs = [replace(job, worker=f"{job.worker}{index}") for index in range(threads)]
    workers = [threading.Thread(target=works, args=(own, count, pause, found)) for own in jobs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    channel.send((found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def look(study: optuna.Study, job: Job, folder: Path) -> float:
    """Seconds of the search's own look at a study in which nothing is new."""
    ready: Any = SimpleNamespace(simulated=False)
    watch = Watch(SPACE, "s", str(folder), folder, 10**6, ready, {}, Progress(disable=True), _again=float("inf"))
    loop = Loop(study, job, Processes(job), 64, guard=object(), on_poll=watch)
    times = []
    for _ in range(4):
        begun = time.perf_counter()
        loop._report([])
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


def told(name: str, values: Sequence[float]) -> str:
    """Quartiles in milliseconds."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{name} {1e3 * middle:.0f} ms ({1e3 * low:.0f} to {1e3 * high:.0f})"


def measured(storage: str, name: str, size: int, options: argparse.Namespace, folder: Path) -> None:
    study = open_study(storage, name, SPACE, resume=False)
    filled(study, size)
    job = Job(storage, name, SPACE, 10**6, 0, worker="crew.")
    spawn, channels = multiprocessing.get_context("spawn"), []
    for index in range(options.processes):
        own, other = spawn.Pipe(duplex=False)
        given = (replace(job, worker=f"crew.{index}-"), options.threads, options.count, options.pause, other)
        child = spawn.Process(target=process, args=given)
        child.start()
        channels.append((child, own))
    found, memory = [], []
    for child, own in channels:
        times, most = own.recv()
        child.join()
        found += times
        memory.append(most)
    both = [taken + telling for taken, telling in found]
    words = [told("handed out", [t for t, _ in found]), told("told", [t for _, t in found]), told("both", both)]
    seconds = look(load_study(storage, name), job, folder)
    print(f"{size:>6} trials before: {', '.join(words)}; the search's look {1e3 * seconds:.0f} ms; "
          f"a process {max(memory):.0f} MiB", flush=True)  # fmt: skip


@contextlib.contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder}/studies.db"
        return
    server = Postgres(folder)
    server.create()
    with (folder / "data" / "postgresql.conf").open("a") as file:
        file.write("max_connections = 300\n")
    server.start()
    try:
        yield server.url()
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["sqlite", "postgresql"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[0, 1000, 3000, 10000])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--count", type=int, default=30, help="Trials of each worker.")
    parser.add_argument("--pause", type=float, default=0.0, help="Seconds in the place of a training.")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="ttq-scale-"))
    try:
        with database(options.kind, folder) as storage:
            for size in options.sizes:
                own = storage if options.kind == "postgresql" else storage.replace("studies.db", f"{size}.db")
                measured(own, f"s{size}", size, options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
