"""``ttq search``: the main job. Wires the search, the trial code and MLflow together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.progress import Progress

from ttq_plugin.commands.parts.confirm import confirm_all
from ttq_plugin.commands.parts.console import err, print_json, progress, working
from ttq_plugin.commands.parts.front import finish, print_front
from ttq_plugin.commands.parts.lines import command, storage_words, store_words
from ttq_plugin.commands.parts.watch import Watch
from ttq_plugin.commands.report import default_storage, store_folder
from ttq_plugin.commands.train import marked, trained_model
from ttq_plugin.errors import InputError
from ttq_plugin.search.confirm import Confirmed
from ttq_plugin.search.crew.engines import get_engine
from ttq_plugin.search.runner import Summary, run_search
from ttq_plugin.search.space.load import load_space
from ttq_plugin.search.space.ranges import number
from ttq_plugin.search.space.schema import schema_text
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.space.stopping import GiveUp
from ttq_plugin.search.study.check import check_study
from ttq_plugin.search.study.storage import HEARTBEAT
from ttq_plugin.search.study.warm import starts
from ttq_plugin.support.names import file_name
from ttq_plugin.tasks.task import Task
from ttq_plugin.tracking import Store, open_store
from ttq_plugin.tracking.faults import explain, store_faults
from ttq_plugin.trial.run import Prepared


@dataclass(frozen=True)
class Asked:
    """The options of ``ttq search``, by the names that the command line gives them.

    Attributes:
        schema: only print the space files' JSON schema.
        space: file or name of the space.
        task: what it searches; needed where only a file names a task of the user's own.
        store: MLflow's folder or address.
        storage: the study's database; None: a file in the folder.
        study: name of a new study, or None.
        resume: name of the study to go on with, or None.
        trials: in all; None: the space's.
        workers: None: one a core.
        engine: "processes" or "ray".
        heartbeat: seconds between signs of life of a worker elsewhere.
        methods: of the space, only these.
        objectives: comma-separated, in place of the space's.
        constraints: in place of the space's.
        sampler: likewise.
        timeout: seconds, likewise.
        stagnation: trials, likewise.
        give_up: KEY=NUMBER, in place of the space's.
        warm_start: studies and tables to start with.
        confirm: how many other seeds train the front again.
        margin: largest loss on test data that would not matter, as people write it.
        epoch_curves: whose training losses MLflow gets.
        seed: None: a resumed study's own, or 0.
        data: None: the task's own.
        cache: folder of full-precision models.
        device: torch's name.
        as_json: print one object.
        weights: the user's own full-precision model.
        retrain: whether to train the full-precision model again.
    """

    schema: bool = False
    space: str = "mnist-cnn"
    task: str | None = None
    store: str = "mlflow_runs"
    storage: str | None = None
    study: str | None = None
    resume: str | None = None
    trials: int | None = None
    workers: int | None = None
    engine: str = "processes"
    heartbeat: int = HEARTBEAT
    methods: Sequence[str] = ()
    objectives: str | None = None
    constraints: Sequence[str] = ()
    sampler: str | None = None
    timeout: float | None = None
    stagnation: int | None = None
    give_up: Sequence[str] = ()
    warm_start: Sequence[str] = ()
    confirm: int | None = None
    margin: float | None = None
    epoch_curves: str = "front"
    seed: int | None = None
    data: Path | None = None
    cache: Path | None = None
    device: str = "cpu"
    as_json: bool = False
    weights: Path | None = None
    retrain: bool = False

    @property
    def changes(self) -> dict[str, Any]:
        """What these options make of the space, as `load_space` takes it."""
        given = {
            "only": list(self.methods),
            "objectives": [name.strip() for name in self.objectives.split(",")]
            if self.objectives is not None
            else None,
            "constraints": list(self.constraints),
            "sampler": self.sampler,
            "timeout": self.timeout,
            "stagnation": self.stagnation,
            "give_up": dict(map(_limit, self.give_up)),
        }
        return {key: value for key, value in given.items() if value not in (None, [], {})}

    @property
    def words(self) -> list[str]:
        """Those that a resumed search needs again: how much, by whom, with which inputs, and what is made of it."""
        kept = ("trials", "workers", "engine", "heartbeat", "confirm", "epoch_curves", "data", "cache", "weights")
        given = {name: getattr(self, name) for name in (*kept, "device", "margin")}
        changed = {name: value for name, value in given.items() if value != getattr(Asked, name)}
        words = [word for name, value in changed.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        return [*words, *(["--json"] if self.as_json else [])]

    @property
    def folder(self) -> Path:
        """Of models, pictures and, unless told otherwise, the study; a server's store has none of its own."""
        return store_folder(self.store)

    @property
    def own_storage(self) -> str:
        """The database where none is named."""
        return default_storage(self.folder)

    @property
    def places(self) -> dict[str, Any]:
        """What `run_search` and `confirm_front` take alike."""
        return {
            "workers": self.workers,
            "data": self.data,
            "cache": self.cache,
            "weights": self.weights,
            "device": self.device,
            "engine": self.engine,
        }


@dataclass(frozen=True)
class Opened:
    """A search that may begin: everything that can refuse it has been looked at."""

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
        """The command that goes on with it, as a shell reads it and without a password."""
        asked = self.asked
        task = ["--task", asked.task] if asked.task else []
        words = [*task, *_words(asked.changes), *store_words(asked.store), *self.storage_words, *asked.words]
        return command("search", [asked.space], ["--resume", self.name, *words])

    @property
    def storage_words(self) -> list[str]:
        """The option that names the study's database, where commands would not find it by themselves."""
        return storage_words(self.storage, self.asked.own_storage)


@dataclass(frozen=True)
class Conducted:
    """A search that has ended.

    Attributes:
        opened: what was searched, and where.
        watch: followed it, and has its records.
        summary: how it ended.
        result: its front as plain data.
    """

    opened: Opened
    watch: Watch
    summary: Summary
    result: dict[str, Any]


class Unrecorded(RuntimeError):
    """MLflow could not be written at a search's end; every trial is kept in the study."""


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
        err.print(f"Interrupted; go on with: {opened.again}")
        raise KeyboardInterrupt
    if summary.error:
        raise SystemExit(f"Error: {summary.error}")
    if summary.complete and not result["front"]:
        raise SystemExit(f"Error: no trial satisfies {', '.join(opened.space.constraints)}; {_nearest(watch)}.")


def conduct(asked: Asked, task: Task | None = None, space: Space | None = None) -> Conducted:
    """Run or resume a search and test its front once; nothing is printed but progress.

    Args:
        asked: what was asked for.
        task: the task itself, where workers could not import it by its name.
        space: what is searched, instead of the space that ``asked`` names.

    Returns:
        The ended search.

    Raises:
        InputError: if something that was asked for cannot be done; nothing has been trained then.
        Unrecorded: if MLflow cannot be written in the end.
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
            f"MLflow cannot be written ({explain(error)}); every trial is kept in the study, and is logged by: "
            f"{opened.again}"
        ) from None
    result["seconds"] = time.perf_counter() - started
    return Conducted(opened, watch, summary, result)


def _open(asked: Asked, space: Space | None) -> Opened:
    """Look at everything that may refuse the search, before anything is trained or written."""
    if asked.study and asked.resume:
        raise InputError("--study names a new study and --resume an old one; give one of them.")
    space = load_space(asked.space, asked.changes, task=asked.task) if space is None else space
    own = asked.own_storage  # refuses a folder that cannot be a store, whatever database is named
    storage = asked.storage or own
    name = asked.resume or asked.study or f"{space.task}-{datetime.now():%Y%m%d-%H%M%S}"
    # A server must answer before anything is trained; a folder becomes a store only when the study is open.
    store = open_store(asked.store) if "://" in asked.store else asked.store
    get_engine(asked.engine, storage)
    seed = check_study(storage, name, space, resume=bool(asked.resume), seed=asked.seed)
    first = starts(asked.warm_start, space, storage)
    return Opened(asked, space, name, storage, store, seed, first, asked.trials or space.trials)


def _run(opened: Opened, task: Task | None) -> tuple[Watch, Summary, dict[int, Confirmed]]:
    """The trials, and where asked the front trained again; the bars are gone afterwards."""
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
            resume=bool(asked.resume),
            on_poll=watch,
            on_wait=lambda why: err.print(f"Waiting for the study's database: {why}"),
            heartbeat=asked.heartbeat,
            task=task,
            fingerprint=ready.fingerprint,
            notes={"full_precision": _full_precision(ready)},
            **asked.places,
        )
        confirmed: dict[int, Confirmed] = {}
        if asked.confirm and not summary.interrupted and not summary.error and watch.members():
            confirmed, cut = confirm_all(
                opened.space, opened.storage, opened.name, watch.members(), asked.confirm, bars, asked.places
            )
            summary = replace(summary, interrupted=cut)
    return watch, summary, confirmed


def _full_precision(ready: Prepared) -> dict[str, Any]:
    """What a report tells of the full-precision model beside the front."""
    return {"score": ready.score, "parts": ready.parts, "classes": list(ready.task.classes)}


def _watch(opened: Opened, ready: Prepared, bars: Progress) -> Watch:
    """What follows the search, with what MLflow is told of the study."""
    space = opened.space
    settings = {
        "task": space.task,
        "sampler": space.sampler,
        "trials": opened.target,
        "seed": opened.seed,
        f"{space.score}_fp32": ready.score,
    }
    models = opened.asked.folder / "models" / file_name(opened.name)
    return Watch(space, opened.name, opened.store, models, opened.target, ready, settings | marked(ready), bars)


def _limit(text: str) -> tuple[str, float]:
    """A key of the space's `give_up`, and its value."""
    key, _, value = text.partition("=")
    if (found := number(value)) is None:
        keys = ", ".join(GiveUp.model_fields)
        raise InputError(f"--give-up must be KEY=NUMBER, with a key among {keys}, got {text!r}.")
    return key, int(found) if found.is_integer() else found


def _words(changes: dict[str, Any]) -> list[str]:
    """The options that made a space another one, which a study keeps."""
    words = [word for name in changes.get("only", ()) for word in ("--method", name)]
    words += ["--objectives", ",".join(changes["objectives"])] if "objectives" in changes else []
    words += [word for text in changes.get("constraints", ()) for word in ("--constraint", text)]
    words += [word for item in changes.get("give_up", {}).items() for word in ("--give-up", f"{item[0]}={item[1]}")]
    for key in ("sampler", "timeout", "stagnation"):
        words += [f"--{key}", str(changes[key])] if key in changes else []
    return words


def _nearest(watch: Watch) -> str:
    """How near the trials came to the first constraint that they broke."""
    limit = next(c for c in watch.space.limits if any(str(c) in record.violated for record in watch.records))
    values = [record.metrics[limit.name] for record in watch.records if limit.name in record.metrics]
    return f"{limit.name} came to {(max if limit.least else min)(values):.6g}" if values else f"none had {limit.name}"
