"""``ttq bench --robustness``: how much the score drops on disturbed inputs, compared with full precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ttq_plugin.commands.parts.console import out as console
from ttq_plugin.commands.parts.console import print_json, table, working
from ttq_plugin.commands.parts.model import Asked, find_model
from ttq_plugin.commands.train import SIMULATED
from ttq_plugin.deploy.bench.robustness import KINDS, curves
from ttq_plugin.errors import InputError
from ttq_plugin.support.files import write_text
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.tracking.pictures.robustness import plot_robustness

WORDS = {kind.name: kind.words for kind in KINDS}


def robustness(
    asked: Asked,
    plot: Path | None,
    out: Path | None,
    *,
    cache: Path | None,
    weights: Path | None,
    noise_seed: int,
    as_json: bool,
) -> None:
    """Measure both models, print a table and write the requested files.

    Args:
        asked: The compressed model.
        plot: PNG file of the picture, or None.
        out: JSON file of the numbers, or None.
        cache: Folder of full-precision models, or None for the user's.
        weights: The user's own full-precision weights, or None.
        noise_seed: Random seed of the disturbances.
        as_json: Whether to print JSON.

    Raises:
        InputError: If the model or its data cannot be used.
    """  # noqa: DOC502 - raised by what it calls
    _, name, source = find_model(asked)
    data, metric = source.data(needed=True), source.task.score
    assert data is not None
    with working(f"robustness of {name}"):
        trained = full_precision(source.task, data, seed=source.seed, device="cpu", cache=cache, weights=weights)
        found = curves(trained.model.cpu(), source.model, data.test, metric, seed=noise_seed)
    title = f"{name}: {source.task.name}{' (SIMULATED data)' if data.simulated else ''}"
    result: dict[str, Any] = {"file": name, "task": source.task.name, "simulated": data.simulated, **found}
    result |= {"split_seed": source.seed, "full_precision": trained.origin}
    if plot:
        plot_robustness(result, metric, WORDS, plot, title)
    if out:
        write_text(out, json.dumps(result, indent=2, allow_nan=False) + "\n")
    if as_json:
        print_json(result)
        return
    _print(result, title, metric)
    written = [f"{words}: {path}" for words, path in (("picture", plot), ("numbers", out)) if path]
    for line in (*written, *([SIMULATED] if data.simulated else [])):
        console.print(line, markup=False)


def _print(result: dict[str, Any], title: str, metric: Metric) -> None:
    scores = dict.fromkeys(("full precision", "compressed", "change"), "right")
    rows = []
    for row in result["levels"]:
        what = "undisturbed" if row["kind"] is None else f"{WORDS[row['kind']]}: {row['level']:g}"
        rows.append([what, *(_told(row[key], metric, key == "change") for key in ("full", "compressed", "change"))])
    table(f"test {metric.label} of {title}, 95 % intervals", {"inputs": "left"} | scores, rows)
    first = result["levels"][0]["full"]
    if "units" in first:
        console.print(f"intervals over {first['units']} {'groups' if first['grouped'] else 'samples'}", markup=False)
    for kind, why in result["skipped"].items():
        console.print(f"{WORDS[kind]}: left out, because {why}", markup=False)


def _told(entry: dict[str, Any], metric: Metric, signed: bool) -> str:
    scale, form = (100, ".2f") if metric.fraction else (1, ".4g")
    form = f"+{form}" if signed else form
    if "low" not in entry:
        return f"{scale * entry['value']:{form}}"
    value, low, high = (f"{scale * entry[key]:{form}}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


TIMED = {"batches": "--batch", "seconds": "--seconds", "threads": "--threads"}
"""Options that only apply to measurements of time."""

ALONE = {"cache": "--cache", "weights": "--weights", "noise_seed": "--noise-seed"}
"""Options that only apply to robustness."""


def check_options(given: frozenset[str], *, robustness: bool) -> None:
    """Refuse options that do not apply to this kind of measurement.

    Args:
        given: Names of the options that were given.
        robustness: Whether robustness is measured instead of time.

    Raises:
        InputError: If such an option was given.
    """
    useless = [option for name, option in (TIMED if robustness else ALONE).items() if name in given]
    if useless and robustness:
        raise InputError(f"{useless[0]} applies to measurements of time, not to --robustness; leave one of them out.")
    if useless:
        raise InputError(
            f"{useless[0]} has an effect only with --robustness; add --robustness, or leave {useless[0]} out."
        )
