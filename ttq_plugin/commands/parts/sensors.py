"""``ttq reproduce sensors``: compares compressed networks on the sensor tasks, with intervals over people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ttq_plugin.commands.parts.console import err, out, print_json, progress
from ttq_plugin.errors import InputError
from ttq_plugin.reproduce.peers.compare import best_trials
from ttq_plugin.reproduce.peers.entrants import chosen, has_parq
from ttq_plugin.reproduce.peers.rounds import FULL
from ttq_plugin.reproduce.runner import Folder, data_identity, run_cells
from ttq_plugin.reproduce.sensors.evidence import goal, summarize
from ttq_plugin.reproduce.sensors.members import (
    INT8,
    SENSORS,
    Member,
    check_metric,
    compressed_layers,
    members,
    train_member,
)
from ttq_plugin.reproduce.sensors.report import HELD_OUT, in_short, write_report
from ttq_plugin.reproduce.summary import environments
from ttq_plugin.reproduce.train import Place
from ttq_plugin.support.names import file_name, shell
from ttq_plugin.support.processes import cores
from ttq_plugin.tasks import get_task
from ttq_plugin.tracking import open_store
from ttq_plugin.tracking.runs.reproduction import ReproductionRecorder
from ttq_plugin.trial.tested import margin_of

SEEDS = 5
"""Default number of repetitions; each seed holds out one speaker."""

REFERENCES = {"cifar10-resnet8": "the reference of MLPerf Tiny trains for 500 epochs and reaches 85 % accuracy"}
"""By task, a published reference that the recipe does not reach."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """The options of ``ttq reproduce sensors``.

    Attributes:
        tasks: Names of the tasks; empty for all.
        repetitions: Number of seeds.
        rows: Names of the members to train; empty for all.
        scale: Factor by which the compressions' epochs are multiplied.
        trials: Tuning trials of each member; 1 uses the recipe's learning rate.
        seed: The first seed.
        data: Data of the only task, or a folder with an entry for each task; None for the tasks' own.
        cache: Folder of full-precision models, or None.
        device: Torch's name of the device.
    """

    tasks: tuple[str, ...]
    repetitions: int
    rows: tuple[str, ...]
    scale: float
    trials: int
    seed: int
    data: Path | None
    cache: Path | None
    device: str

    def names(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return self.tasks or SENSORS

    def data_of(self, task: str) -> Path | None:
        """A task's data; for several tasks, the folder's entry that begins with the task's name, or the task's own."""
        if self.data is None or len(self.names()) == 1:
            return self.data
        known = sorted(path for path in self.data.glob("*") if path.name.split(".")[0] == file_name(task))
        return known[0] if known else None

    def again(self) -> str:
        """The command that gives the same numbers, without the options that only matter on this machine."""
        words = ["ttq", "reproduce", "sensors"]
        for task in self.tasks:
            words += ["--task", task]
        words += ["--repetitions", str(self.repetitions)]
        words += ["--trials", str(self.trials)] if self.trials > 1 else []
        words += ["--methods", ",".join(self.rows)] if self.rows else []
        words += ["--scale", f"{self.scale:g}"] if self.scale != 1 else []
        words += ["--seed", str(self.seed)] if self.seed else []
        words += ["--device", self.device] if self.device != "cpu" else []
        words += ["--data", self.data.name] if self.data else []
        return shell(words)


def sensors(asked: Asked, workers: int | None, to: Path, store: str, *, as_json: bool) -> None:
    """Run the missing trainings of each task, and write a report of all results."""
    chosen(members(), asked.rows)
    if not 0 < asked.scale <= 1:
        raise InputError(f"the epochs' scale must lie in (0, 1], got {asked.scale:g}.")
    for task in asked.names():
        check_metric(get_task(task))
    if asked.data is not None and len(asked.names()) > 1 and not asked.data.is_dir():
        raise InputError(
            f"--data must name a folder with an entry for each task, such as {asked.names()[0]}, if there are several "
            f"tasks; got {asked.data}."
        )
    recorder = ReproductionRecorder(open_store(store), "reproduce sensors")
    tables: list[dict[str, Any]] = []
    shown: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    results: list[Result] = []
    for task in asked.names():
        run = _Task(task, asked, workers or cores(), recorder, to)
        found = run.results()
        refused |= run.refused
        if found:
            results += found
            tables.append(run.table(found))
            shown[task] = _shown(found, tables[-1]["goal"]["row"])
    if not tables:
        raise InputError(" ".join(dict.fromkeys(refused.values())))
    name = "sensors" + "".join(f"-{file_name(task)}" for task in asked.tasks)
    summary: dict[str, Any] = {
        **{"table": "sensors", "command": asked.again(), "scale": asked.scale, "trials": asked.trials},
        **{"simulated": any(one["simulated"] for one in tables), "refused": refused, "tasks": tables},
        **{"shortened": _shortened(asked, tables, refused), "environments": environments(results)},
    }
    files = write_report(summary, {task: one for task, one in shown.items() if one}, to, name)
    recorder.finish(files, summary["simulated"])
    if as_json:
        print_json(summary | {"files": [str(path) for path in files]})
        return
    for one in tables:
        simulated = " (SIMULATED data)" if one["simulated"] else ""
        for line in (f"{one['task']}{simulated}", *in_short(one)):
            out.print(line, markup=False)
    out.print(f"report: {', '.join(str(path) for path in files)}", markup=False)


class _Task:
    """The trainings of one task; each result is stored and logged."""

    def __init__(self, name: str, asked: Asked, workers: int, recorder: ReproductionRecorder, to: Path) -> None:
        data = asked.data_of(name)
        self.task, self.asked, self.workers, self.recorder = get_task(name), asked, workers, recorder
        self.place = Place(str(data) if data else None, str(asked.cache) if asked.cache else None, asked.device)
        self.folder = Folder(to / f"sensors-{file_name(name)}.cells", data_identity(self.place.data))
        self.epochs = max(1, round(asked.scale * self.task.recipe.epochs))
        self.refused: dict[str, str] = {}

    def results(self) -> list[Result]:
        """The results of all possible trainings; full precision comes first, because the others start from it."""
        rows = chosen(members(), self.asked.rows)
        first, seeds = self.asked.seed, range(self.asked.seed, self.asked.seed + self.asked.repetitions)
        with self.folder.alone():
            settings = {row.name: row.draw(0, self.task.recipe.lr) for row in rows if row.ranges}
            settings |= {row.name: {"method": row.method} for row in rows if not row.ranges}
            if self.asked.trials > 1:
                tuned = [row for row in rows if row.ranges]
                trials = range(self.asked.trials)
                known = [(row, trial, row.draw(trial, self.task.recipe.lr)) for trial in trials for row in tuned]
                before = [self.member(FULL, first, None, 0)]
                tuning = [self.member(row.name, first, drawn, trial) for row, trial, drawn in known]
                found = self.all(tuning) if self.all(before) else []
                best = best_trials(found, self.task.score)
                settings |= {row: {k: v for k, v in one.items() if k != "epochs"} for row, one in best.items()}
                seeds = range(first + 1, first + 1 + self.asked.repetitions)
            full = self.all([self.member(FULL, seed, None) for seed in seeds])
            able = [result["seed"] for result in full]
            return full + self.all([self.member(row.name, s, settings[row.name]) for row in rows for s in able])

    def member(self, row: str, seed: int, settings: dict[str, Any] | None, trial: int | None = None) -> Member:
        """A training of this task."""
        whole = settings
        if settings is not None and settings["method"] != INT8:
            whole = settings | {"epochs": self.epochs}
        return Member(row, seed, self.task.name, whole, trial, self.task.recipe)

    def all(self, todo: Sequence[Member]) -> list[Result]:
        """The results of these trainings, in order; refused ones are left out and noted."""
        results: dict[str, Result] = {}
        with progress() as bars:
            bar = bars.add_task(self.task.name, total=len(todo), note="")

            def on_result(one: Any, result: Result) -> None:
                results[one.key] = result
                self.recorder.record(f"{self.task.name} {one.key}", result)
                bars.update(bar, advance=1, note=one.key)

            def on_refused(one: Any, error: InputError) -> None:
                if str(error) not in self.refused.values():
                    err.print(f"{self.task.name}, {one.row}: {error}", markup=False)
                self.refused[f"{self.task.name}, {one.row}, seed {one.seed}"] = str(error)
                bars.update(bar, advance=1, note=one.key)

            options: dict[str, Any] = {"on_result": on_result, "work": train_member, "on_refused": on_refused}
            run_cells(todo, self.place, self.folder, workers=self.workers, **options)
        return [results[one.key] for one in todo if one.key in results]

    def table(self, results: Sequence[Result]) -> dict[str, Any]:
        """The task's part of the summary."""
        rows = summarize(results, self.task.score, margin_of(self.task.score, None))
        return {
            "task": self.task.name,
            "metric": self.task.score.name,
            "seeds": [result["seed"] for result in results if result["row"] == FULL],
            "samples": results[0]["samples"],
            "recipe": asdict(self.task.recipe),
            "epochs": self.epochs,
            "layers": list(compressed_layers(self.task.model())),
            "simulated": any(result["simulated"] for result in results),
            "rows": rows,
            "goal": goal(rows),
        }


def _shown(results: Sequence[Result], best: str | None) -> dict[str, Any]:
    """Test samples of the first seed, with the predictions before and after compression."""
    full = next(result for result in results if result["row"] == FULL)
    answers = [(FULL, full["answers"])]
    for result in results:
        if best and result["seed"] == full["seed"] and best.startswith(result["row"]) and result["answers"]:
            part = result if best == result["row"] else result["firmware"]
            answers.append((best, part["answers"]))
    return {"examples": full["examples"], "answers": answers}


def _shortened(asked: Asked, tables: Sequence[dict[str, Any]], refused: dict[str, str]) -> list[str]:
    """Remarks on what this run shortened or left out."""
    lines = []
    if asked.scale != 1:
        lines.append(f"Compressions train for {asked.scale:g} of the recipes' epochs, full precision for all of them.")
    if asked.trials == 1:
        lines.append("No member was tuned: each uses the learning rate of its task's recipe.")
    if asked.repetitions < SEEDS:
        lines.append(f"{asked.repetitions} seeds instead of {SEEDS}.")
    for one in tables:
        if words := REFERENCES.get(one["task"]):
            lines.append(f"{one['task']}: {words}; here it trains for {one['recipe']['epochs']} epochs.")
        people = one["rows"][0]["people"]
        if people is not None and len(people) < HELD_OUT:
            groups = "group was" if len(people) == 1 else "groups were"
            lines.append(f"{one['task']}: only {len(people)} {groups} held out in all.")
        if all(row["instructions"] is None for row in one["rows"]):
            lines.append(f"{one['task']}: no instructions were counted, which needs cc and valgrind.")
    if not has_parq():
        lines.append("PARQ: torchao is not installed; install it with pip install 'ttq-plugin[peers]'.")
    by_reason: dict[str, list[str]] = {}
    for who, why in refused.items():
        by_reason.setdefault(why, []).append(who)
    return lines + [f"{'; '.join(who)}: {why}" for why, who in by_reason.items()]
