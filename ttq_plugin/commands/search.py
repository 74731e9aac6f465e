"""``ttq search``: the main job. Wires the search, the trial code and MLflow together, and prints the front."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.progress import Progress

from ttq_plugin.commands.console import err, out, percent, print_json, progress, table
from ttq_plugin.commands.train import prepared
from ttq_plugin.errors import InputError
from ttq_plugin.search.check import check_study
from ttq_plugin.search.load import load_space
from ttq_plugin.search.runner import Summary, run_search
from ttq_plugin.search.space import Space
from ttq_plugin.tracking import StudyRecorder, TrialRecord, front, open_store, plot_front
from ttq_plugin.trial import Prepared, load_weights, score_on_test

HEADINGS = {
    "mcc": "MCC val",
    "cr_gain_total": "CR_G",
    "cr_gain_quantized": "CR_G quant",
    "ec_gain_total": "EC_G",
    "srqw": "zeros",
}


@dataclass
class _Watch:
    """Follows the search: MLflow up to date, models of dominated trials removed, the bar moved."""

    space: Space
    study: str
    store: str
    models: Path
    target: int
    ready: Prepared
    parameters: dict[str, Any]
    bars: Progress
    records: list[TrialRecord] = field(default_factory=list)
    _recorder: StudyRecorder | None = None
    _bar: Any = None

    @property
    def recorder(self) -> StudyRecorder:
        """Made on first use, when the study has been opened: a refused search leaves nothing in MLflow."""
        if self._recorder is None:
            self._recorder = StudyRecorder(
                open_store(self.store), self.study, self.space.objectives, self.parameters, {"task": self.space.task}
            )
        return self._recorder

    def members(self) -> set[int]:
        """Numbers of the trials on the front."""
        return front(self.records, self.space.objectives)

    def __call__(self, finished: Sequence[dict[str, Any]], running: Sequence[dict[str, Any]]) -> None:
        """Called by the search about twice a second."""
        if self._bar is None:
            self._bar = self.bars.add_task("trials", total=self.target, note="")
        if len(finished) > len(self.records):
            self.records = [TrialRecord(**record) for record in finished]
            self.recorder.sync(self.records)
            self._forget_dominated()
        complete = [r.metrics["mcc"] for r in self.records if r.state == "complete" and "mcc" in r.metrics]
        best = f"best MCC {percent(max(complete))}, " if complete else ""
        note = f"{best}front {len(self.members())}, running {len(running)}"
        # Trials that were lost with a killed worker and run again are records too: they must not fill the bar early.
        done = min(len(self.records), self.target - len(running))
        self.bars.update(self._bar, completed=done, note=note)

    def _forget_dominated(self) -> None:
        """A trial once dominated never comes back to the front, so its weights are not needed any more."""
        members = self.members()
        for record in self.records:
            if record.number not in members:
                (self.models / f"trial-{record.number}.safetensors").unlink(missing_ok=True)


def search(
    space: str,
    store: str,
    storage: str | None,
    study: str | None,
    resume: str | None,
    trials: int | None,
    workers: int | None,
    *,
    seed: int | None,
    data: Path | None,
    cache: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Run or resume a search, test its front once, and print it."""
    started = time.perf_counter()
    if study and resume:
        raise InputError("--study names a new study and --resume an old one; give one of them.")
    described = load_space(space)
    folder = Path("mlflow_runs") if "://" in store else Path(store)
    storage = storage or f"sqlite:///{(folder / 'studies.db').absolute()}"
    name = resume or study or f"{described.task}-{datetime.now():%Y%m%d-%H%M%S}"
    target = trials or described.trials
    seed = check_study(storage, name, described, resume=bool(resume), seed=seed)
    ready = prepared(described.task, seed=seed, data=data, cache=cache, device=device)
    settings = {"task": described.task, "sampler": "tpe", "trials": target, "seed": seed, "mcc_fp32": ready.mcc}
    with progress() as bars:
        watch = _Watch(described, name, store, folder / "models" / name, target, ready, settings, bars)
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
            resume=bool(resume),
            on_poll=watch,
        )
    result = _finish(watch, summary, data, folder, seed) | {"seconds": time.perf_counter() - started}
    if as_json:
        print_json(result)
    else:
        _print(result, described, store)
    if summary.interrupted:
        err.print(f"Interrupted; go on with: ttq search {space} --resume {name}")
        raise KeyboardInterrupt
    if summary.error:
        raise SystemExit(f"Error: {summary.error}")


def _finish(watch: _Watch, summary: Summary, data: Path | None, folder: Path, seed: int) -> dict[str, Any]:
    """Score the front on the test split, end the study's run in MLflow, and draw the front."""
    recorder, members = watch.recorder, sorted(watch.members())
    scores = _test(watch, members, data, seed)
    recorder.finish(watch.records, "KILLED" if summary.interrupted else "FINISHED")
    picture = folder / "fronts" / f"{watch.study}.png"
    if members:
        picture.parent.mkdir(parents=True, exist_ok=True)
        plot_front(watch.records, watch.space.objectives, picture, f"{watch.study}: {summary.complete} trials")
    rows = [
        {
            "trial": r.number,
            "origin": r.origin,
            **{k: v for k, v in r.parameters.items() if v is not None},
            **r.metrics,
            "test_mcc": scores.get(r.number),
            "notes": list(r.notes),
        }
        for r in watch.records
        if r.number in members
    ]
    return {
        "study": watch.study,
        "trials": {"complete": summary.complete, "failed": summary.failed, "lost": summary.lost},
        "full_precision": {"mcc": watch.ready.mcc, "test_mcc": scores.get(-1)},
        "front": sorted(rows, key=lambda row: -row["mcc"]),
        "picture": str(picture.absolute()) if members else None,
        "link": recorder.link("127.0.0.1", 5000),
    }


def _test(watch: _Watch, members: list[int], data: Path | None, seed: int) -> dict[int, float]:
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
            recorder.log_file(path, "model", number)
    scores = dict(zip(numbers, score_on_test(task.name, models, seed=seed, data=data), strict=True))
    for number, score in scores.items():
        if number >= 0:
            recorder.log_test(number, score)
    return known | scores


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
    if counts["failed"]:
        out.print(f"{counts['failed']} trials failed; MLflow shows why.")
    if noted := [str(row["trial"]) for row in result["front"] if row["notes"]]:
        out.print(f"trials {', '.join(noted)} have notes (a threshold lowered, a layer collapsed): MLflow has them.")
    out.print(f"took {result['seconds']:.0f} s")
    out.print(f"picture: {result['picture']}")
    where = "" if store == "mlflow_runs" else f" --store {store}"
    out.print(f"MLflow:  ttq ui{where} --study {result['study']}")
    out.print(f"         {result['link']}")
