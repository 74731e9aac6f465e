"""``ttq search``: the main job. Wires the search, the trial code and MLflow together, and prints the front."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ttq_plugin.commands.confirm import confirm_all, print_confirmed
from ttq_plugin.commands.console import err, out, percent, print_json, progress, table
from ttq_plugin.commands.train import SIMULATED, marked, prepared
from ttq_plugin.commands.watch import Watch
from ttq_plugin.deploy.pyfunc import log_model
from ttq_plugin.errors import InputError
from ttq_plugin.search.check import check_study
from ttq_plugin.search.confirm import Confirmed
from ttq_plugin.search.engines import get_engine
from ttq_plugin.search.load import load_space
from ttq_plugin.search.runner import Summary, run_search
from ttq_plugin.search.schema import schema_text
from ttq_plugin.search.space import Space
from ttq_plugin.search.storage import HEARTBEAT, redact
from ttq_plugin.search.warm import starts
from ttq_plugin.tasks import TASKS
from ttq_plugin.tracking import StudyRecorder, open_store, plot_front
from ttq_plugin.tracking.faults import explain, store_faults
from ttq_plugin.trial import load_weights, score_on_test

HEADINGS = {
    "mcc": "MCC val",
    "cr_gain_total": "CR_G",
    "cr_gain_quantized": "CR_G quant",
    "ec_gain_total": "EC_G",
    "cr_gain_disk": "file gain",
    "cr_gain_entropy": "Shannon gain",
    "srqw": "zeros",
}


def search(
    space: str,
    store: str,
    storage: str | None,
    study: str | None,
    resume: str | None,
    trials: int | None,
    workers: int | None,
    methods: Sequence[str],
    objectives: str | None,
    constraints: Sequence[str],
    sampler: str | None,
    timeout: float | None,
    stagnation: int | None,
    warm_start: Sequence[str],
    confirm: int | None,
    schema: bool,
    engine: str = "processes",
    heartbeat: int = HEARTBEAT,
    epoch_curves: str = "front",
    *,
    seed: int | None,
    data: Path | None,
    cache: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Run or resume a search, test its front once, and print it."""
    if schema:
        return print(schema_text(), end="")
    started = time.perf_counter()
    if study and resume:
        raise InputError("--study names a new study and --resume an old one; give one of them.")
    changes = {
        "only": list(methods),
        "objectives": [name.strip() for name in objectives.split(",")] if objectives else None,
        "constraints": list(constraints),
        "sampler": sampler,
        "timeout": timeout,
        "stagnation": stagnation,
    }
    described = load_space(space, {key: value for key, value in changes.items() if value not in (None, [])})
    folder = Path("mlflow_runs") if "://" in store else Path(store)
    storage = storage or f"sqlite:///{(folder / 'studies.db').absolute()}"
    name = resume or study or f"{described.task}-{datetime.now():%Y%m%d-%H%M%S}"
    target = trials or described.trials
    # A server must answer before anything is trained; a folder becomes a store only when the study is open.
    opened = open_store(store) if "://" in store else store
    get_engine(engine, storage)
    seed = check_study(storage, name, described, resume=bool(resume), seed=seed)
    first = starts(warm_start, described, storage)
    ready = prepared(described.task, seed=seed, data=data, cache=cache, device=device)
    settings = {
        "task": described.task,
        "sampler": described.sampler,
        "trials": target,
        "seed": seed,
        "mcc_fp32": ready.mcc,
    }
    settings |= marked(ready)
    with progress() as bars:
        watch = Watch(described, name, opened, folder / "models" / name, target, ready, settings, bars)
        folder.mkdir(parents=True, exist_ok=True)
        summary = run_search(
            described,
            storage,
            name,
            workers=workers,
            trials=target,
            seed=seed,
            data=data,
            cache=cache,
            models_dir=watch.models,
            device=device,
            starts=first,
            resume=bool(resume),
            on_poll=watch,
            on_wait=lambda why: err.print(f"Waiting for the study's database: {why}"),
            engine=engine,
            heartbeat=heartbeat,
        )
        confirmed: dict[int, Confirmed] = {}
        if confirm and not summary.interrupted and not summary.error and watch.members():
            options = {"workers": workers, "data": data, "cache": cache, "device": device, "engine": engine}
            confirmed, cut = confirm_all(described, storage, name, watch.members(), confirm, bars, options)
            summary = replace(summary, interrupted=cut)
    again = f"ttq search {space} --resume {name}{_again(changes)}{_elsewhere(store, storage, folder)}"
    try:
        result = watch.last(lambda: _finish(watch, summary, data, folder, seed, confirmed, epoch_curves))
    except store_faults() as error:
        raise SystemExit(
            f"Error: MLflow cannot be written ({explain(error)}); every trial is kept in the study, and is logged by: "
            f"{again}"
        ) from None
    result["seconds"] = time.perf_counter() - started
    if as_json:
        print_json(result)
    else:
        _print(result, described, store)
    if summary.interrupted:
        err.print(f"Interrupted; go on with: {again}")
        raise KeyboardInterrupt
    if summary.error:
        raise SystemExit(f"Error: {summary.error}")
    if summary.complete and not result["front"]:
        raise SystemExit(f"Error: no trial satisfies {', '.join(described.constraints)}; {_nearest(watch)}.")


def _elsewhere(store: str, storage: str, folder: Path) -> str:
    """The options that find the same stores again, without a password."""
    given = "" if store == "mlflow_runs" else f" --store {store}"
    default = f"sqlite:///{(folder / 'studies.db').absolute()}"
    return given if storage == default else f"{given} --storage '{redact(storage)}'"


def _again(changes: Mapping[str, Any]) -> str:
    """The options that made a space another one, as a shell reads them: a study keeps what it searches."""
    words = [word for name in changes["only"] for word in ("--method", name)]
    words += ["--objectives", ",".join(changes["objectives"])] if changes["objectives"] else []
    words += [word for text in changes["constraints"] for word in ("--constraint", text)]
    words += [
        w for key in ("sampler", "timeout", "stagnation") if changes[key] for w in (f"--{key}", str(changes[key]))
    ]
    return "".join(f" {shlex.quote(word)}" for word in words)


def _nearest(watch: Watch) -> str:
    """How near the trials came to the first constraint that they broke."""
    limit = next(c for c in watch.space.limits if any(str(c) in record.violated for record in watch.records))
    values = [record.metrics[limit.name] for record in watch.records if limit.name in record.metrics]
    return f"{limit.name} came to {(max if limit.least else min)(values):.6g}" if values else f"none had {limit.name}"


def _finish(
    watch: Watch,
    summary: Summary,
    data: Path | None,
    folder: Path,
    seed: int,
    confirmed: Mapping[int, Confirmed],
    curves: str,
) -> dict[str, Any]:
    """Score the front on the test split, end the study's run in MLflow, and draw the front."""
    recorder, members = watch.recorder, sorted(watch.members())
    scores = _test(watch, members, data, seed)
    for number, found in confirmed.items():
        recorder.log_confirmed(number, found.holds, dict(zip(watch.space.objectives, found.mean, strict=True)))
    recorder.finish(watch.records, "KILLED" if summary.interrupted else "FINISHED", curves)
    picture = folder / "fronts" / f"{watch.study}.png"
    if members:
        picture.parent.mkdir(parents=True, exist_ok=True)
        again = {number: asdict(found) for number, found in confirmed.items()}
        title = f"{watch.study}{' (SIMULATED data)' if watch.ready.simulated else ''}: {summary.complete} trials"
        plot_front(watch.records, watch.space.objectives, picture, title, again)
    rows = [
        {
            "trial": r.number,
            "origin": r.origin,
            **{k: v for k, v in r.parameters.items() if v is not None},
            **r.metrics,
            "test_mcc": scores.get(r.number),
            "notes": list(r.notes),
            **({"confirmed": asdict(confirmed[r.number])} if r.number in confirmed else {}),
        }
        for r in watch.records
        if r.number in members
    ]
    return {
        "study": watch.study,
        "simulated": watch.ready.simulated,
        "trials": {
            "complete": summary.complete,
            "failed": summary.failed,
            "lost": summary.lost,
            "pruned": summary.pruned,
        },
        "ended": summary.ended,
        "saved_seconds": summary.saved,
        "full_precision": {"mcc": watch.ready.mcc, "test_mcc": scores.get(-1)},
        "front": sorted(rows, key=lambda row: -row["mcc"]),
        "picture": str(picture.absolute()) if members else None,
        "link": recorder.link("127.0.0.1", 5000),
    }


def _test(watch: Watch, members: list[int], data: Path | None, seed: int) -> dict[int, float]:
    """Test score of each front member, once each; -1 is the full-precision model's."""
    recorder, task = watch.recorder, watch.ready.task
    known = recorder.tested()
    models, numbers = [watch.ready.model.cpu()], [-1]
    for number in members:
        path = watch.models / f"trial-{number}.safetensors"
        if number not in known and path.is_file():
            model = task.model().eval()
            load_weights(model, path)
            models.append(model)
            numbers.append(number)
            _log_model(recorder, number, path, model, task.name)
    scores = dict(zip(numbers, score_on_test(task.name, models, seed=seed, data=data), strict=True))
    for number, score in scores.items():
        if number >= 0:
            recorder.log_test(number, score)
    return known | scores


def _log_model(recorder: StudyRecorder, number: int, path: Path, model: Any, task: str) -> None:
    """The weights as a file, and of a built-in task's network a model that MLflow loads; each is logged once."""
    recorder.log_file(path, "model", number)
    if task in TASKS and not recorder.store.client.get_run(recorder.run_of(number)).outputs.model_outputs:
        log_model(recorder.store.client, recorder.run_of(number), model, task, name=f"trial-{number}")


def _print(result: dict[str, Any], space: Space, store: str) -> None:
    counts, full = result["trials"], result["full_precision"]
    metrics = list(dict.fromkeys([*space.objectives, "srqw"]))
    headings = {"trial": "right", "method": "left", "from": "left"}
    numbers = {HEADINGS.get(name, name): "right" for name in metrics} | {"MCC test": "right", "epochs": "right"}
    baseline = ["", "fp32", ""] + [percent(full["mcc"]) if m == "mcc" else "" for m in metrics]
    rows = [[*baseline, percent(full["test_mcc"]), ""]]
    rows += [
        [str(row["trial"]), row["method"], row["origin"]]
        + [percent(row[m]) if m in row else "" for m in metrics]
        + [percent(row["test_mcc"]), str(row["epochs"])]
        for row in result["front"]
    ]
    table(f"{result['study']}: the front of {counts['complete']} trials", headings | numbers, rows)
    if result["simulated"]:
        out.print(SIMULATED)
    if counts["failed"]:
        out.print(f"{counts['failed']} trials failed; MLflow shows why.")
    if counts["pruned"]:
        out.print(
            f"{counts['pruned']} trials ended early, which saved about {result['saved_seconds']:.0f} s of training."
        )
    if result["ended"] not in {None, "trials"}:
        out.print(f"The search ended by {result['ended']}.")
    print_confirmed(result["front"], space)
    if noted := [str(row["trial"]) for row in result["front"] if row["notes"]]:
        out.print(f"trials {', '.join(noted)} have notes (a threshold lowered, a layer collapsed): MLflow has them.")
    out.print(f"took {result['seconds']:.0f} s")
    out.print(f"picture: {result['picture']}")
    where = "" if store == "mlflow_runs" else f" --store {store}"
    out.print(f"MLflow:  ttq ui{where} --study {result['study']}")
    out.print(f"         {result['link']}")
