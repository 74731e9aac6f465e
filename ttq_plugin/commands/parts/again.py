"""The command that reproduces a table again."""

from __future__ import annotations

from pathlib import Path

from ttq_plugin.reproduce.cells import Plan
from ttq_plugin.support.names import shell


def reproduce_again(
    table: str, task: str, plan: Plan, data: Path | None, *, gpu: bool, trials: int | None = None
) -> str:
    """The command that gives the same numbers, without the options that only matter on this machine."""
    words = ["ttq", "reproduce", table, "--task", task, "--repetitions", str(len(plan.seeds))]
    words += ["--trials", str(trials)] if trials is not None else []
    words += ["--methods", ",".join(plan.rows)] if plan.rows else []
    words += ["--scale", f"{plan.scale:g}"] if plan.scale != 1 else []
    words += ["--precision", plan.precision] if plan.precision != "float32" else []
    words += ["--seed", str(plan.seeds[0])] if plan.seeds[0] else []
    words += ["--device", "cuda"] if gpu else []
    words += ["--data", data.name] if data else []
    return shell(words)
