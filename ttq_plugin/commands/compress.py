"""``ttq compress``: one method, one setting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ttq_plugin.commands.console import epoch_bar, out, percent, print_json, progress
from ttq_plugin.commands.train import prepared
from ttq_plugin.errors import InputError
from ttq_plugin.trial import Outcome, Settings, run, save_weights, score_on_test


def compress(
    task: str,
    *,
    seed: int | None,
    data: Path | None,
    cache: Path | None,
    device: str,
    as_json: bool,
    config: Path | None,
    **options: Any,
) -> None:
    """Compress, print the report, write the weights where asked."""
    target = options.pop("out")
    settings = Settings(task=task, seed=seed or 0, **options)
    config_list = _read_config(config) if config else None
    ready = prepared(task, seed=seed, data=data, cache=cache, device=device)
    with progress() as bars:
        on_epoch = epoch_bar(bars, f"{settings.method} training", settings.epochs)
        outcome = run(ready, settings, config_list=config_list, on_epoch=on_epoch)
    model = outcome.model.cpu()
    full, test = score_on_test(task, [ready.model.cpu(), model], seed=seed or 0, data=data)
    if target:
        save_weights(model, target, {"task": task, "method": settings.method, "layers": ",".join(outcome.layers)})
    scores = {"mcc_fp32": ready.mcc, "test_mcc": test, "test_mcc_fp32": full}
    if as_json:
        print_json(
            {
                "settings": vars(settings),
                "layers": list(outcome.layers),
                "notes": outcome.notes,
                "seconds": outcome.seconds,
                **outcome.report.to_dict(),
                "mcc": outcome.metrics["mcc"],
                **scores,
                "weights": str(target) if target else None,
            }
        )
        return
    _print(settings, outcome, scores)
    if target:
        out.print(f"weights: {target}")


def _print(settings: Settings, outcome: Outcome, scores: dict[str, float]) -> None:
    numbers = outcome.metrics
    out.print(outcome.report)
    out.print(
        f"{settings.method} on {', '.join(outcome.layers)}: MCC {percent(numbers['mcc'])} (validation; full precision "
        f"{percent(scores['mcc_fp32'])}), {percent(scores['test_mcc'])} (test; full precision "
        f"{percent(scores['test_mcc_fp32'])})"
    )
    for note in outcome.notes:
        out.print(f"note: {note}")


def _read_config(path: Path) -> list[dict[str, Any]]:
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"the config list {path} cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise InputError(f"the config list {path} is not JSON ({error}); `ttq sensitivity --out` writes one.") from None
    if not isinstance(config, list) or not config:
        raise InputError(f"the config list {path} must be a list of NNI config entries; `ttq sensitivity` writes one.")
    return config
