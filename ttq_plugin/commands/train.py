"""``ttq train``: the full-precision model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack

from ttq_plugin import api
from ttq_plugin.commands.parts.console import err, print_json, table
from ttq_plugin.commands.parts.console import out as console
from ttq_plugin.tasks.checks.check import TaskWarning
from ttq_plugin.tasks.scoring.parts import part_label, part_text
from ttq_plugin.tasks.task import Task
from ttq_plugin.trial.run import Prepared, save_weights
from ttq_plugin.trial.tested import Tested, in_words

SIMULATED = "The data are SIMULATED."
"""Remark in every output about a model that was trained on simulated signals only."""


def marked(ready: Prepared) -> dict[str, str]:
    """The suffix of file names and MLflow tags for simulated data; empty for measured data."""
    return {"simulated": "true"} if ready.simulated else {}


def prepared(
    task: str,
    *,
    seed: int | None,
    data: Path | None,
    cache: Path | None,
    device: str,
    weights: Path | None = None,
    retrain: bool = False,
) -> Prepared:
    """What compressions share, with a progress bar for the training; prints where the model comes from."""
    places = {"data": data, "cache": cache, "device": device, "weights": weights}
    return trained_model(task, seed or 0, places, retrain=retrain, curvature=True).prepared


class Asked(TypedDict, total=False):
    """Keyword arguments of ``api.train`` in addition to data, cache, device and weights."""

    retrain: bool
    test: bool
    curvature: bool


def trained_model(task: str | Task, seed: int, places: Mapping[str, Any], **asked: Unpack[Asked]) -> api.Trained:
    """Call ``api.train`` and print what is trained and where the model comes from.

    Args:
        task: A task or its name.
        seed: Random seed of splits and training.
        places: Data, cache, device and weights.
        **asked: The arguments ``retrain``, ``test`` and ``curvature``.

    Returns:
        The full-precision model.
    """
    described = api.identified(task)
    err.print(f"{described.name}: {described.description}", markup=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", TaskWarning)
        trained = api.train(described, seed=seed, **places, **asked)
    for warning in told:
        if issubclass(warning.category, TaskWarning):
            err.print(f"note: {warning.message}", markup=False, soft_wrap=True)
        else:
            warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
    err.print(f"full-precision model: {trained.origin}", markup=False, soft_wrap=True)
    return trained


def print_parts(title: str, columns: Mapping[str, Mapping[str, float]], task: Task) -> None:
    """Print the parts of scores as a table with one row per class or output.

    Args:
        title: Title of the table.
        columns: Parts of a score by heading, all for one task.
        task: The task, which names the classes.
    """
    names = list(dict.fromkeys(name for parts in columns.values() for name in parts))
    if not names:
        return
    shown = [[part_label(n, task.classes), *(part_text(n, parts.get(n)) for parts in columns.values())] for n in names]
    table(title, {"part": "left"} | dict.fromkeys(columns, "right"), shown)


def train(
    task: str,
    out: Path | None,
    *,
    seed: int | None,
    data: Path | None,
    cache: Path | None,
    device: str,
    as_json: bool,
    weights: Path | None = None,
    retrain: bool = False,
) -> None:
    """Train or load the model, score it, and write it if requested."""
    places = {"data": data, "cache": cache, "device": device, "weights": weights}
    trained = trained_model(task, seed or 0, places, retrain=retrain, test=True)
    ready, test = trained.prepared, trained.test
    assert test is not None
    model, metric = trained.model.cpu(), ready.task.score
    result: dict[str, Any] = {
        "task": task,
        "parameters": sum(p.numel() for p in model.parameters()),
        "metric": metric.name,
        metric.name: ready.score,
        f"test_{metric.name}": test.value,
        "parts": ready.parts,
        "test_parts": test.parts,
        **test.to_dict(),
        "origin": ready.origin,
        "simulated": ready.simulated,
        "weights": str(out) if out else None,
    }
    if out:
        save_weights(model, out, {"task": task, "seed": str(seed or 0), metric.name: repr(ready.score)} | marked(ready))
    if as_json:
        print_json(result)
        return
    _print(ready, test, result["parameters"])
    if out:
        console.print(f"weights: {out}")


def _print(ready: Prepared, test: Tested, parameters: int) -> None:
    metric = ready.task.score
    if ready.simulated:
        console.print(SIMULATED)
    console.print(
        f"{parameters} parameters, {metric.label} {metric.text(ready.score)} (validation), "
        f"{metric.text(test.value)} (test)"
    )
    if test.interval is not None:
        console.print(f"test {metric.label}, 95 % interval: {in_words(test.interval, metric)}", markup=False)
    print_parts("full precision", {"validation": ready.parts, "test": test.parts}, ready.task)
