"""``ttq train``: the full-precision model."""

from __future__ import annotations

from pathlib import Path

from ttq_plugin.commands.console import epoch_bar, err, percent, print_json, progress
from ttq_plugin.commands.console import out as console
from ttq_plugin.tasks import get_task
from ttq_plugin.trial import Prepared, prepare, save_weights, score_on_test

SIMULATED = "The data are SIMULATED."
"""What every output says of a model that never saw a measured signal."""


def marked(ready: Prepared) -> dict[str, str]:
    """What files and MLflow's tags say of simulated data; nothing of measured ones."""
    return {"simulated": "true"} if ready.simulated else {}


def prepared(task: str, *, seed: int | None, data: Path | None, cache: Path | None, device: str) -> Prepared:
    """``trial.prepare`` with a progress bar over the full-precision model's epochs."""
    described = get_task(task)
    err.print(f"{task}: {described.description}")
    with progress() as bars:
        on_epoch = epoch_bar(bars, "full-precision model", described.recipe.epochs)
        return prepare(task, seed=seed or 0, data=data, device=device, cache=cache, on_epoch=on_epoch)


def train(
    task: str,
    out: Path | None,
    *,
    seed: int | None,
    data: Path | None,
    cache: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Train or read the model, score it, write it where asked."""
    ready = prepared(task, seed=seed, data=data, cache=cache, device=device)
    model = ready.model.cpu()
    [test] = score_on_test(task, [model], seed=seed or 0, data=data)
    result = {
        "task": task,
        "parameters": sum(p.numel() for p in model.parameters()),
        "mcc": ready.mcc,
        "test_mcc": test,
        "simulated": ready.simulated,
        "weights": str(out) if out else None,
    }
    if out:
        save_weights(model, out, {"task": task, "mcc": repr(ready.mcc)} | marked(ready))
    if as_json:
        print_json(result)
        return
    if ready.simulated:
        console.print(SIMULATED)
    console.print(f"{result['parameters']} parameters, MCC {percent(ready.mcc)} (validation), {percent(test)} (test)")
    if out:
        console.print(f"weights: {out}")
