"""``ttq search``: connects the search, the trial code and MLflow."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rich.progress import Progress

from ttq_plugin.commands.parts.asked import Asked, space_words
from ttq_plugin.commands.parts.confirm import confirm_all
from ttq_plugin.commands.parts.console import err, print_json, progress, working
from ttq_plugin.commands.parts.front import finish
from ttq_plugin.commands.parts.front_table import print_front
from ttq_plugin.commands.parts.lines import command, storage_words, store_words
from ttq_plugin.commands.parts.places import check_place
from ttq_plugin.commands.parts.watch import Watch
from ttq_plugin.commands.train import marked, trained_model
from ttq_plugin.errors import InputError
from ttq_plugin.search import keys
from ttq_plugin.search.confirm import Baseline, Confirmed
from ttq_plugin.search.crew.engines import get_engine
from ttq_plugin.search.runner import Summary, run_search
from ttq_plugin.search.space.load import load_space
from ttq_plugin.search.space.schema import schema_text
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.study.check import check_study
from ttq_plugin.search.study.storage import check_folder
from ttq_plugin.search.study.warm import starts
from ttq_plugin.support.names import file_name
from ttq_plugin.tasks.task import Task
from ttq_plugin.tracking import Store, open_store
from ttq_plugin.tracking.faults import explain, store_faults
from ttq_plugin.tracking.remake import inputs_of
from ttq_plugin.trial.run import Prepared

__all__ = ["Asked", "Conducted", "Opened", "Unrecorded", "conduct", "search"]


@dataclass(frozen=True)
class Opened:
    """A search that is ready to start: all checks have passed."""

    asked: Asked
    space: Space
    name: str
    storage: str
    store: Store | str
    seed: int
    first: list[dict[str, Any]]
    target: int

    @property
    def again(self) -> str:
        """The command that continues the search, quoted for a shell and without a password."""
        asked = self.asked
        task = ["--task", asked.task] if asked.task else []
        words = [*task, *space_words(asked.changes), *store_words(asked.store), *self.storage_words, *asked.words]
        return command("search", [asked.space], ["--resume", self.name, *words])

    @property
    def storage_words(self) -> list[str]:
        """The option that names the study's database, if commands would not find it by themselves."""
        return storage_words(self.storage, self.asked.own_storage)


@dataclass(frozen=True)
class Conducted:
    """A search that has ended.

    Attributes:
        opened: The search as it was opened.
        watch: The object that followed the search and has its records.
        summary: How the search ended.
        result: The front as plain data.
    """

    opened: Opened
    watch: Watch
    summary: Summary
    result: dict[str, Any]


class Unrecorded(RuntimeError):
    """MLflow could not be written at the end of a search; all trials are in the study."""


def search(asked: Asked) -> None:
    """Run or resume a search, test its front once, and print it."""
    if asked.schema:
        return print(schema_text(), end="")
    try:
        found = conduct(asked)
    except Unrecorded as error:
        raise SystemExit(f"Error: {error}") from None
    opened, watch, summary, result = found.opened, found.watch, found.summary, found.result
    if asked.as_json:
        print_json(result)
    else:
        print_front(result, opened.space, asked.store, opened.storage_words)
    if summary.interrupted:
        err.print(f"Interrupted; to continue, run: {opened.again}")
        raise KeyboardInterrupt
    if summary.error:
        raise SystemExit(f"Error: {summary.error}")
    if summary.complete and not result["front"]:
        raise SystemExit(f"Error: no trial satisfies {', '.join(opened.space.constraints)}; {_nearest(watch)}.")


def conduct(asked: Asked, task: Task | None = None, space: Space | None = None) -> Conducted:
    """Run or resume a search and test its front once; only progress is printed.

    Args:
        asked: The options of the search.
        task: The task object, if workers cannot import it by its name.
        space: The space to search, instead of the one that ``asked`` names.

    Returns:
        The ended search.

    Raises:
        InputError: If an option cannot be satisfied; nothing has been trained then.
        Unrecorded: If MLflow cannot be written in the end.
    """  # noqa: DOC502 - raised by what it calls
    started = time.perf_counter()
    opened = _open(asked, space)
    watch, summary, confirmed = _run(opened, task)
    try:
        with working("test scores and models of the front"):
            result = watch.last(
                lambda: finish(
                    watch, summary, asked.data, asked.folder, opened.seed, confirmed, asked.epoch_curves, asked.margin
                )
            )
    except store_faults() as error:
        raise Unrecorded(
            f"MLflow cannot be written ({explain(error)}); every trial is kept in the study; to log them, run: "
            f"{opened.again}"
        ) from None
    result["seconds"] = time.perf_counter() - started
    return Conducted(opened, watch, summary, result)


def _open(asked: Asked, space: Space | None) -> Opened:
    """Check everything that may be refused, before anything is trained or written."""
    if asked.study is not None and asked.resume is not None:
        raise InputError("--study names a new study and --resume an existing one; give only one of them.")
    if space is None:
        space = load_space(asked.space, asked.changes, task=asked.task, thresholds=asked.thresholds)
    own = asked.own_storage  # refuses a folder that cannot be a store, whatever database is named
    storage = own if asked.storage is None else asked.storage
    given = asked.study if asked.resume is None else asked.resume
    name = f"{space.task}-{datetime.now():%Y%m%d-%H%M%S}" if given is None else given
    # A server must answer before anything is trained; a folder becomes a store only when the study is open.
    store = open_store(asked.store) if "://" in asked.store else asked.store
    check_place(asked.folder / "models", folder=True)
    get_engine(asked.engine, storage)
    check_folder(storage, asked.folder)
    seed = check_study(storage, name, space, resume=asked.resume is not None, seed=asked.seed)
    first = starts(asked.warm_start, space, storage)
    return Opened(asked, space, name, storage, store, seed, first, asked.trials or space.trials)


def _run(opened: Opened, task: Task | None) -> tuple[Watch, Summary, dict[int, Confirmed]]:
    """Run the trials and, if requested, train the front again; the progress bars are removed afterwards."""
    asked = opened.asked
    places = {"data": asked.data, "cache": asked.cache, "device": asked.device, "weights": asked.weights}
    trained = trained_model(task or opened.space.task, opened.seed, places, retrain=asked.retrain, curvature=True)
    ready = trained.prepared
    with progress() as bars:
        watch = _watch(opened, ready, bars)
        asked.folder.mkdir(parents=True, exist_ok=True)
        summary = run_search(
            opened.space,
            opened.storage,
            opened.name,
            trials=opened.target,
            seed=opened.seed,
            models_dir=watch.models,
            starts=opened.first,
            resume=asked.resume is not None,
            on_poll=watch,
            on_wait=lambda why: err.print(f"Waiting for the study's database: {why}"),
            heartbeat=asked.heartbeat,
            task=task,
            fingerprint=ready.fingerprint,
            notes={keys.FULL_PRECISION: _full_precision(ready)},
            **asked.places,
        )
        confirmed: dict[int, Confirmed] = {}
        if asked.confirm and not summary.interrupted and not summary.error and watch.members():
            options = asked.places | {"baseline": _baseline(ready)}
            confirmed, cut = confirm_all(
                opened.space, opened.storage, opened.name, watch.members(), asked.confirm, bars, options
            )
            summary = replace(summary, interrupted=cut)
    return watch, summary, confirmed


def _baseline(ready: Prepared) -> Baseline:
    """The full-precision scores that repeated members are compared with."""
    train, validation = len(ready.train), len(ready.validation)
    return Baseline(ready.task.score.name, ready.score, validation / (train + validation))


def _full_precision(ready: Prepared) -> dict[str, Any]:
    """What a report shows of the full-precision model in addition to the front."""
    return {"score": ready.score, "parts": ready.parts, "classes": list(ready.task.classes)}


def _watch(opened: Opened, ready: Prepared, bars: Progress) -> Watch:
    """The object that follows the search, with the parameters that MLflow stores for the study."""
    space = opened.space
    settings = {
        "task": space.task,
        "sampler": space.sampler,
        "trials": opened.target,
        "seed": opened.seed,
        f"{space.score}_fp32": ready.score,
    }
    models = opened.asked.folder / "models" / file_name(opened.name)
    asked, facts = opened.asked, settings | marked(ready)
    inputs = inputs_of(asked.data, asked.cache, asked.weights, asked.device)
    return Watch(space, opened.name, opened.store, models, opened.target, ready, facts, bars, inputs=inputs)


def _nearest(watch: Watch) -> str:
    """How close the trials came to the first constraint that they violated."""
    limit = next(c for c in watch.space.limits if any(str(c) in record.violated for record in watch.records))
    values = [record.metrics[limit.name] for record in watch.records if limit.name in record.metrics]
    return f"{limit.name} came to {(max if limit.least else min)(values):.6g}" if values else f"none had {limit.name}"
