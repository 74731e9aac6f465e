"""``ttq reproduce peers``: compares ternary methods with other methods at equal bytes, on any task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ttq_plugin.commands.parts.again import reproduce_again
from ttq_plugin.commands.parts.console import out, percent, print_json, progress, table
from ttq_plugin.reproduce.cells import Plan
from ttq_plugin.reproduce.peers.compare import best_trials, duels, summarize
from ttq_plugin.reproduce.peers.entrants import Entrant, chosen, entrants, has_parq
from ttq_plugin.reproduce.peers.report import VERDICTS, write_report
from ttq_plugin.reproduce.peers.rounds import FULL, Round, layers_of, train_round
from ttq_plugin.reproduce.runner import Folder, Result, data_identity, run_cells
from ttq_plugin.reproduce.summary import environments
from ttq_plugin.reproduce.train import Place
from ttq_plugin.support.names import file_name
from ttq_plugin.support.processes import cores
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.task import Task
from ttq_plugin.tracking import open_store
from ttq_plugin.tracking.runs.reproduction import ReproductionRecorder


def peers(
    task: str,
    repetitions: int,
    names: tuple[str, ...],
    scale: float,
    trials: int,
    workers: int | None,
    to: Path,
    store: str,
    *,
    seed: int,
    data: Path | None,
    cache: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Tune all entrants with the same effort, repeat the chosen settings with other seeds, and write the report."""
    described, metric = get_task(task), get_task(task).score
    rows = chosen(entrants(), names)
    epochs = max(1, round(scale * described.recipe.epochs))
    place = Place(str(data) if data else None, str(cache) if cache else None, device)
    name = f"peers-{file_name(task)}"
    folder = Folder(to / f"{name}.cells", data_identity(place.data))
    run = _Runner(place, folder, workers or cores(), ReproductionRecorder(open_store(store), f"reproduce peers {task}"))
    plan = Plan(range(seed, seed + repetitions), scale, rows=names)
    with folder.alone():
        results = _results(run, described, rows, epochs, trials, plan.seeds)
        summary = _summary(described, plan, results, trials, data) | {"epochs": epochs}
        files = write_report(summary, metric, to, name)
        run.recorder.finish(files, summary["simulated"])
    if as_json:
        print_json(summary | {"files": [str(path) for path in files]})
        return
    _print(summary, metric, files)


def _summary(task: Task, plan: Plan, results: Sequence[Result], trials: int, data: Path | None) -> dict[str, Any]:
    """The contents of the report, except the number of epochs."""
    metric = task.score
    machines, found = environments(results), summarize(results, metric)
    gpu = any(machine["gpu"] for machine in machines)
    return {
        "table": "peers",
        "task": task.name,
        "metric": metric.name,
        "command": reproduce_again("peers", task.name, plan, data, gpu=gpu, trials=trials),
        "trials": trials,
        "tuning_seed": plan.seeds[0],
        "seeds": [own + 1 for own in plan.seeds],
        "layers": list(layers_of(task.model())),
        "simulated": any(result["simulated"] for result in results),
        "rows": found,
        "duels": duels(found, metric),
        "absent": {}
        if has_parq()
        else {"PARQ": "torchao is not installed; install it with pip install 'ttq-plugin[peers]'"},
        "environments": machines,
    }


def _results(
    run: _Runner, task: Task, rows: Sequence[Entrant], epochs: int, trials: int, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Run the tuning with the first seed, then the repetitions with the following seeds, including full precision."""
    first = seeds[0]
    tuning = [
        Round(row.name, first, task.name, row.draw(trial, task.recipe.lr) | {"epochs": epochs}, trial)
        for trial in range(trials)
        for row in rows
    ]
    # The tuning seed's full-precision model comes first, because two workers on the same one would wait for each other.
    run.all([Round(FULL, first, task.name, None, 0)])
    settings = best_trials(run.all(tuning), task.score)
    again = [Round(FULL, seed + 1, task.name, None) for seed in seeds]
    again += [Round(row.name, seed + 1, task.name, settings[row.name]) for seed in seeds for row in rows]
    return run.all(again)


class _Runner:
    """Runs trainings with a progress bar; each result is stored and logged."""

    def __init__(self, place: Place, folder: Folder, workers: int, recorder: ReproductionRecorder) -> None:
        self.place, self.folder, self.workers, self.recorder = place, folder, workers, recorder

    def all(self, rounds: Sequence[Round]) -> list[dict[str, Any]]:
        """The results of these trainings, in order."""
        results: dict[str, dict[str, Any]] = {}
        with progress() as bars:
            bar = bars.add_task("trainings", total=len(rounds), note="")

            def on_result(one: Any, result: dict[str, Any]) -> None:
                results[one.key] = result
                self.recorder.record(one.key, result)
                bars.update(bar, advance=1, note=one.key)

            run_cells(rounds, self.place, self.folder, workers=self.workers, on_result=on_result, work=train_round)
        return [results[one.key] for one in rounds]


def _print(summary: dict[str, Any], metric: Any, files: Sequence[Path]) -> None:
    text = percent if metric.fraction else lambda value: f"{value:.4g}"
    lines = []
    for row in (row for row in summary["rows"] if row["test"] is not None):
        size = f"{row['bytes']['mean']:.0f}"
        zeros, score = percent(row["zeros"]["mean"]), text(row["test"]["mean"])
        lines.append([row["row"], str(row["repetitions"]), size, zeros, score])
    heads = {"entrant": "left", "n": "right", "bytes": "right", "zeros": "right", f"test {metric.label}": "right"}
    table(f"peers on {summary['task']}", heads, lines)
    for duel in summary["duels"]:
        if duel["ours"] is not None:
            out.print(f"{duel['peer']} beside {duel['ours']}: {VERDICTS[duel['verdict']].strip('*')}", markup=False)
    out.print(f"report: {', '.join(str(path) for path in files)}", markup=False)
