"""``ttq reproduce``: a table of the papers, with our results next to the published ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ttq_plugin.commands.parts.again import reproduce_again
from ttq_plugin.commands.parts.console import err, out, percent, print_json, progress
from ttq_plugin.commands.parts.lines import see
from ttq_plugin.commands.parts.peers import peers
from ttq_plugin.commands.parts.sensors import SEEDS, sensors
from ttq_plugin.commands.parts.sensors import Asked as Sensors
from ttq_plugin.errors import InputError
from ttq_plugin.reproduce.cells import Cell, Plan, cells
from ttq_plugin.reproduce.equations import contradictions
from ttq_plugin.reproduce.published import Published, published
from ttq_plugin.reproduce.report import write_report
from ttq_plugin.reproduce.runner import Folder, Result, data_identity, run_cells
from ttq_plugin.reproduce.summary import COLUMNS, environments, summarize
from ttq_plugin.reproduce.train import Place
from ttq_plugin.support.processes import cores
from ttq_plugin.tasks import get_task
from ttq_plugin.tracking import open_store
from ttq_plugin.tracking.runs.reproduction import ReproductionRecorder

DEFAULT, REPETITIONS, TRIALS = "mnist-cnn", 10, 8
"""Defaults of the task, the repetitions and the tuning trials."""

PEERS = "peers"
"""The table that compares methods on any task and metric, which no paper has."""

WITH_EQUATIONS = ("main",)
"""Tables whose published columns can be checked against the papers' equations."""


SENSORS = "sensors"
"""The table that compares members on several sensor tasks."""


def reproduce(
    table: str,
    task: tuple[str, ...],
    repetitions: int | None,
    methods: str | None,
    scale: float,
    precision: str,
    workers: int | None,
    to: Path,
    store: str,
    *,
    keep_models: bool,
    trials: int | None = None,
    seed: int | None,
    data: Path | None,
    cache: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Run the missing trainings, log them to MLflow and write the report."""
    first, rows = seed or 0, tuple(name.strip() for name in methods.split(",")) if methods is not None else ()
    where: dict[str, Any] = {"data": data, "cache": cache, "device": device}
    if table == SENSORS:
        wanted = Sensors(task, repetitions or SEEDS, rows, scale, trials or 1, first, **where)
        sensors(wanted, workers, to, store, as_json=as_json)
        return
    if len(task) > 1:
        raise InputError(f"{table} reproduces one task at a time, got {', '.join(task)}; only {SENSORS} takes several.")
    [name] = task or (DEFAULT,)
    options: dict[str, Any] = {"seed": first, "as_json": as_json, **where}
    if table == PEERS:
        peers(name, repetitions or REPETITIONS, rows, scale, trials or TRIALS, workers, to, store, **options)
        return
    plan = Plan(range(first, first + (repetitions or REPETITIONS)), scale, precision, rows)
    tables(
        table,
        name,
        plan,
        workers,
        to,
        store,
        keep_models=keep_models,
        data=data,
        cache=cache,
        device=device,
        as_json=as_json,
    )


def tables(
    table: str,
    task: str,
    plan: Plan,
    workers: int | None,
    to: Path,
    store: str,
    *,
    keep_models: bool,
    data: Path | None,
    cache: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Reproduce a table of the papers."""
    paper = published(task)
    todo = cells(table, paper, plan)
    name = f"{table}-{task}"
    folder = Folder(to / f"{name}.cells", data_identity(str(data) if data else None))
    place = Place(
        data=str(data) if data else None,
        cache=str(cache) if cache else None,
        device=device,
        models=str(to / f"{name}.models") if keep_models else None,
    )
    with folder.alone():
        pairs, recorder = _train(todo, place, folder, store, f"reproduce {table} {task}", workers)
        summary = summarize(table, paper, pairs)
        summary |= _circumstances(pairs, plan, data, table, paper)
        summary["command"] = reproduce_again(
            table, task, plan, data, gpu=any(e["gpu"] for e in summary["environments"])
        )
        files = write_report(summary, to, name)
        link = recorder.finish(files, summary["simulated"])
    if as_json:
        print_json(summary | {"files": [str(path) for path in files], "link": link})
        return
    _print(summary, files, store, link)


def _train(
    todo: list[Cell], place: Place, folder: Folder, store: str, experiment: str, workers: int | None
) -> tuple[list[tuple[Cell, Result]], ReproductionRecorder]:
    """All results in the table's order; each is logged to MLflow."""
    results: dict[str, Result] = {}
    recorder = ReproductionRecorder(open_store(store), experiment)
    with progress() as bars:
        bar = bars.add_task("trainings", total=len(todo), note="")

        def on_result(cell: Cell, result: Result) -> None:
            results[cell.key] = result
            recorder.record(cell.key, result)
            bars.update(bar, advance=1, note=f"{cell.key}: MCC {percent(result['test_mcc'])}")

        try:
            run_cells(todo, place, folder, workers=workers or cores(), on_result=on_result)
        except KeyboardInterrupt:
            err.print(f"Interrupted; {len(results)} of {len(todo)} results are kept, and the same command continues.")
            raise
        except RuntimeError as error:
            raise SystemExit(f"Error: {error}; {len(results)} of {len(todo)} results are kept.") from None
    return [(cell, results[cell.key]) for cell in todo], recorder


def _circumstances(
    pairs: list[tuple[Cell, Result]], plan: Plan, data: Path | None, table: str, paper: Published
) -> dict[str, Any]:
    """Information that the report gives in addition to the numbers."""
    cell, result = pairs[0]
    sentences: list[str] = []
    if table in WITH_EQUATIONS:
        described = get_task(cell.task)
        sample = described.load(data, cell.seed).train.head(1).x
        sentences = list(contradictions(paper, described.model(), sample))
    source = data.name if data else os.environ.get("TTQ_DATA_DIR") and "TTQ_DATA_DIR" or "the task's own data"
    return {
        "seeds": list(plan.seeds),
        "scale": plan.scale,
        "precision": plan.precision,
        "layers": list(cell.layers),
        "recipe": result["recipe"],
        "samples": result["samples"],
        "refit": cell.refit,
        "simulated": result["simulated"],
        "data": source,
        "contradictions": sentences,
        "environments": environments([result for _, result in pairs]),
        "seconds": sum(result["seconds"] for _, result in pairs),
    }


def _print(summary: dict[str, Any], files: list[Path], store: str, link: str) -> None:
    from ttq_plugin.commands.parts.console import table as show

    headings = {"row": "left", "n": "right"} | dict.fromkeys(COLUMNS.values(), "right")
    rows = []
    for row in summary["rows"]:
        texts = [row["row"], str(row["repetitions"])]
        for column in COLUMNS:
            entry = row["columns"].get(column)
            texts.append("" if entry is None else f"{entry['mean']:.2f}" + _beside(entry))
        rows.append(texts)
    simulated = ", SIMULATED data" if summary["simulated"] else ""
    show(f"{summary['table']} of {summary['task']}{simulated}, % (published)", headings, rows)
    for goal in summary.get("goals", []):
        words = "reached" if goal["reached"] else "NOT reached"
        out.print(f"{goal['row']}: {COLUMNS[goal['column']]} {goal['mean']:.2f}, goal {goal['goal']:.2f}: {words}")
    out.print(f"report: {', '.join(str(path) for path in files)}")
    for line in see(store, link):
        out.print(line)


def _beside(entry: dict[str, Any]) -> str:
    return f" ({entry['published'][0]:.2f})" if "published" in entry else ""
