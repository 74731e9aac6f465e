"""Trains and measures one cell, with the same trial code as a search."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ttq_plugin.core.model.layers import tensor_of
from ttq_plugin.curvature.plan import ternary_entry
from ttq_plugin.errors import Diverged
from ttq_plugin.methods import MIXED
from ttq_plugin.reproduce.cells import Cell
from ttq_plugin.support.machine import environment
from ttq_plugin.support.weights import save_weights
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.task import Data, Split
from ttq_plugin.trial.run import Outcome, Prepared, prepare, run, score_on_test
from ttq_plugin.trial.settings import Settings

KEPT = ("mcc", "srqw", "cr_gain_total", "cr_gain_quantized", "ec_gain_total", "cr_gain_entropy")
"""Metrics of a result, fractions in [0, 1]; ``mcc`` is on validation data."""


@dataclass(frozen=True)
class Place:
    """Where a cell is trained.

    Attributes:
        data: The user's data file, or None for the task's own.
        cache: Folder of full-precision models, or None for the default.
        device: torch's name of the device.
        models: Folder for the compressed weights, or None to keep none.
    """

    data: str | None = None
    cache: str | None = None
    device: str = "cpu"
    models: str | None = None


def train_cell(cell: Cell, place: Place) -> dict[str, Any]:
    """Train one cell and score it on the test split, once.

    Args:
        cell: What to train.
        place: The data, the cache and the device.

    Returns:
        Plain data: ``row``, ``seed``, ``settings``, ``recipe``, ``metrics`` (fractions; None if it diverged),
        ``test_mcc``, ``fp_mcc``, ``fp_test_mcc``, ``refit``, ``curve`` (zero share after each epoch), ``notes``,
        ``environment`` (the machine and its versions), ``seconds``; with ``refit`` the MCC of ``metrics`` and
        ``fp_mcc``, on validation data, are None.
    """
    started = time.perf_counter()
    task = replace(get_task(cell.task), recipe=cell.recipe, load=partial(load_once, cell.task, refit=cell.refit))
    ready = prepare(task, seed=cell.seed, data=place.data, device=place.device, cache=place.cache, curvature=False)
    result: dict[str, Any] = {
        "row": cell.row,
        "seed": cell.seed,
        "task": cell.task,
        "simulated": ready.simulated,
        "layers": list(cell.layers),
        "settings": cell.settings,
        "recipe": asdict(cell.recipe),
        "samples": len(ready.train),
        "refit": cell.refit,
        "fp_mcc": None if cell.refit else ready.score,
        "metrics": {"mcc": None if cell.refit else ready.score},
        "curve": [],
        "notes": [],
        "environment": environment(place.device),
    }
    models = [ready.model]
    if cell.settings is not None:
        made = _compressed(cell, ready, place, result)
        models += [made] if made is not None else []
    tested = score_on_test(task, [m.cpu() for m in models], seed=cell.seed, data=place.data, intervals=False)
    scores = [found.value for found in tested]
    result |= {"fp_test_mcc": scores[0], "test_mcc": scores[-1] if result["metrics"] else None}
    return result | {"seconds": time.perf_counter() - started}


@lru_cache(maxsize=1)
def load_once(name: str, source: Path | None, seed: int, *, refit: bool = False) -> Data:
    """The task's data, read once by a worker for all rows of a repetition; see ``Cell.refit``."""
    data = get_task(name).load(source, seed)
    if not refit:
        return data
    train, validation = data.train, data.validation
    assert isinstance(train, Split) and isinstance(validation, Split)  # of the built-in tasks
    both = Split(torch.cat([train.x, validation.x]), torch.cat([train.y, validation.y]))
    return replace(data, train=both, overlap=True)


def _compressed(cell: Cell, ready: Prepared, place: Place, result: dict[str, Any]) -> nn.Module | None:
    """The compressed model, its numbers written into the result; None if training diverged."""
    recipe = replace(cell.recipe, warmup=cell.warmup)
    ready = replace(ready, task=replace(ready.task, recipe=recipe))
    settings = cell.training()
    try:
        outcome = _run(cell, ready, settings)
    except Diverged as error:
        result |= {"metrics": None, "notes": [f"diverged: {error}"]}
        return None
    result["metrics"] = {name: outcome.metrics[name] for name in KEPT if name in outcome.metrics}
    result |= {"curve": _curve(outcome, ready), "notes": list(outcome.notes)}
    if cell.refit:
        result["metrics"]["mcc"] = None
    if place.models:
        known = {"task": cell.task, "method": settings.method, "layers": ",".join(outcome.layers)}
        save_weights(outcome.model, Path(place.models) / f"{cell.key}.safetensors", known)
    return outcome.model


def _run(cell: Cell, ready: Prepared, settings: Settings) -> Outcome:
    if chain := cell.links():  # whose links have the method and its numbers
        cleared: dict[str, Any] = dict.fromkeys(settings.options())
        shared = replace(settings, method=MIXED, granularity=None, **cleared)
        return run(ready, shared, chain=chain)
    return run(ready, settings, config_list=[ternary_entry(cell.layers, settings.granularity)])


def _curve(outcome: Outcome, ready: Prepared) -> list[float]:
    """Zeros among the quantised weights after each epoch."""
    sizes = {
        name: tensor_of(module, "weight").numel()
        for name, module in ready.model.named_modules()
        if name in outcome.layers
    }
    known = [name for name in sizes if all(f"{name}.zeros" in look for look in outcome.health)]
    total = sum(sizes[name] for name in known)
    if not total:
        return []
    return [sum(sizes[name] * look[f"{name}.zeros"] for name in known) / total for look in outcome.health]
