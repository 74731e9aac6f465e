"""``ttq worker``: works on a search that runs elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ttq_plugin.commands.parts.console import err, out, print_json, progress
from ttq_plugin.errors import InputError
from ttq_plugin.search.join import find_study, job_of, run_workers
from ttq_plugin.search.study.ledger import RunningTrial
from ttq_plugin.tracking.records import TrialRecord


def worker(
    storage: str,
    study: str | None,
    workers: int | None,
    models: Path | None,
    *,
    task: str | None = None,
    weights: Path | None = None,
    seed: int | None,
    data: Path | None,
    cache: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Join the search, work until no trial is left, and print how many trials were finished here."""
    name = find_study(storage, study)
    job = job_of(
        storage, name, task=task, data=data, device=device, cache=cache, models_dir=models, weights=weights
    )  # fmt: skip
    if seed is not None and seed != job.seed:
        raise InputError(f"The study {name!r} has seed {job.seed}, got {seed}; leave --seed out to work on it.")
    if models is not None and not models.is_dir():
        raise InputError(
            f"--models must be a folder that the search sees too, got {models}, which does not exist here."
        )
    err.print(f"{name}: {job.space.task}, {job.target} trials in all")
    with progress() as bars:
        bar = bars.add_task("trials", total=job.target, note="")

        def follow(finished: Sequence[TrialRecord], running: Sequence[RunningTrial]) -> None:
            done = max(0, min(len(finished), job.target - len(running)))
            bars.update(bar, completed=done, note=f"running {len(running)}")

        def wait(why: str) -> None:
            err.print(f"Waiting for the study's database: {why}")

        try:
            here, interrupted = run_workers(job, workers=workers, on_poll=follow, on_wait=wait)
        except RuntimeError as error:
            raise SystemExit(f"Error: {error}") from None
    if as_json:
        print_json({"study": name, "trials": here})
    else:
        out.print(f"{here} trials of {name} were finished here")
    if interrupted:
        raise KeyboardInterrupt
