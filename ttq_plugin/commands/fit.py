"""``ttq fit``: the best integer network within a budget of flash and memory, as C with a test program."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ttq_plugin.commands.parts.console import out as console
from ttq_plugin.commands.parts.console import print_json
from ttq_plugin.commands.parts.fit_page import page
from ttq_plugin.commands.parts.lines import running
from ttq_plugin.commands.search import Asked as Search
from ttq_plugin.commands.search import conduct
from ttq_plugin.deploy.c_int8.export import VECTORS, export_int8, footprint
from ttq_plugin.deploy.integer.calibrated import Calibrated, calibrate
from ttq_plugin.deploy.integer.module import integerize
from ttq_plugin.errors import InputError
from ttq_plugin.search.space.load import load_space
from ttq_plugin.search.space.measured import CALIBRATION
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.study.ledger import finished
from ttq_plugin.search.study.study import load_study
from ttq_plugin.support.files import write_text
from ttq_plugin.support.inputs import to_device
from ttq_plugin.support.names import check_c_name
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.checks.check import load_data, make_model
from ttq_plugin.tasks.scoring.scores import score
from ttq_plugin.tasks.task import Data, Task
from ttq_plugin.tracking.records import TrialRecord
from ttq_plugin.trial.run import Prepared, Settings, prepare, run

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20}


@dataclass(frozen=True)
class Asked:
    """The options of ``ttq fit``.

    Attributes:
        task: The task whose network is compressed.
        flash: Largest number of bytes of code and constants.
        ram: Largest number of bytes of static memory.
        floor: The score that the network must reach on validation data, or None.
        out: Folder for the C code and the report.
        space: Space file, or None for the task's own.
        confirm: Number of other seeds with which the chosen settings are trained.
        name: Name of the C files.
        search: Options of the search.
    """

    task: str
    flash: int
    ram: int
    floor: float | None
    out: Path
    space: str | None
    confirm: int
    name: str
    search: Search


@dataclass(frozen=True)
class Trained:
    """The chosen settings, trained with one seed and converted to integers.

    Attributes:
        seed: Random seed of the training.
        network: The integer network.
        floats: Validation score of the same network in floating point.
        test: Test score of the integer network.
        sizes: The numbers of bytes ``flash`` and ``ram``.
    """

    seed: int
    network: Calibrated
    floats: float
    test: float
    sizes: dict[str, float]


def bytes_of(text: str) -> int:
    """Read a number of bytes such as 64k.

    Args:
        text: Digits, optionally followed by k (1024) or M (1024 squared).

    Returns:
        The bytes.

    Raises:
        InputError: If the text is not such a number.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)(?:i?[bB])?", text.strip())
    if match is None or float(match[1]) == 0:
        raise InputError(f"a budget must be a number of bytes above 0 such as 65536 or 64k, got {text!r}.")
    return int(float(match[1]) * UNITS[match[2].lower()])


def fit(asked: Asked) -> None:
    """Search, train the best network with other seeds, write it as C code, and print a summary."""
    if asked.out.exists() and any(asked.out.iterdir() if asked.out.is_dir() else [asked.out]):
        raise InputError(f"--out must name a new or empty folder, got {asked.out}, which is not empty.")
    check_c_name(asked.name)
    task, own = get_task(asked.task), asked.search
    data = load_data(task, own.data, own.seed or 0)
    _check_budget(asked, task, data)
    metric = task.score.name
    limits = [f"flash <= {asked.flash}", f"ram <= {asked.ram}"]
    limits += [] if asked.floor is None else [f"{metric} {'>=' if task.score.higher else '<='} {asked.floor}"]
    search = replace(own, space=asked.space or asked.task, objectives=f"{metric},flash_gain", constraints=limits)
    space: Space = load_space(search.space, search.changes, task=asked.task)
    conducted = conduct(search, None, space)
    study = conducted.opened.name
    records = finished(load_study(conducted.opened.storage, study))
    complete = [record for record in records if record.state == "complete" and "flash" in record.metrics]
    fitting = [record for record in complete if not record.violated]
    if not fitting:
        _nothing_fits(asked, complete, task)
    sign = 1 if task.score.higher else -1
    best = max(fitting, key=lambda record: (sign * record.metrics[metric], -record.metrics["flash"]))
    seeds = [best.seed, *(best.seed + place for place in range(1, asked.confirm + 1))]
    ready = prepare(task, seed=own.seed or 0, data=own.data, device=own.device, cache=own.cache, weights=own.weights)
    trained = [_trained(ready, data, best, seed) for seed in seeds]
    front = [row for row in conducted.result["front"] if "flash" in row]
    result = _written(asked, task, data, best, trained, front, study)
    if own.as_json:
        print_json(result)
        return
    console.print(result["summary"], markup=False)


def _check_budget(asked: Asked, task: Task, data: Data) -> None:
    """Refuse a budget that code, tables and activations exceed even without any weights."""
    with torch.random.fork_rng(devices=[]):
        model = make_model(task)
    samples = data.train.head(CALIBRATION).x
    empty = copy.deepcopy(model).eval()
    with torch.no_grad():
        for parameter in empty.parameters():
            if parameter.dim() > 1:
                parameter.zero_()
    least = footprint(integerize(empty, samples))
    for name, budget in (("flash", asked.flash), ("ram", asked.ram)):
        if least[name] > budget:
            what = "code and tables" if name == "flash" else "activations"
            raise InputError(
                f"--{name} must be at least {least[name]:.0f} bytes, which {what} of {task.name} take even without "
                f"any weights, got {budget}."
            )


def _nothing_fits(asked: Asked, complete: Sequence[TrialRecord], task: Task) -> None:
    """Name the network that comes closest, say which budget it would need, and exit."""
    if not complete:
        sys.exit("No training finished, so no network fits; the study records why each training failed.")
    metric = task.score.name

    def beyond(record: TrialRecord) -> float:
        sizes = max(0.0, record.metrics["flash"] / asked.flash - 1) + max(0.0, record.metrics["ram"] / asked.ram - 1)
        short = 0.0
        if asked.floor is not None:
            gap = asked.floor - record.metrics[metric]
            short = max(0.0, gap if task.score.higher else -gap) / max(1e-9, abs(asked.floor))
        return sizes + short

    near = min(complete, key=beyond)
    wanted = [
        f"--{name} {near.metrics[name]:.0f}"
        for name, budget in (("flash", asked.flash), ("ram", asked.ram))
        if near.metrics[name] > budget
    ]
    if any(limit.startswith(metric) for limit in near.violated):
        wanted.append(f"--floor {near.metrics[metric]:.4g}, or more --trials")
    sys.exit(
        f"No network fits: the closest is trial {near.number} with {task.score.label} {near.metrics[metric]:.4g}, "
        f"{near.metrics['flash']:.0f} bytes of flash and {near.metrics['ram']:.0f} of memory; it would fit with "
        f"{' and '.join(wanted)}."
    )


def _trained(ready: Prepared, data: Data, best: TrialRecord, seed: int) -> Trained:
    given = {name: value for name, value in best.parameters.items() if value is not None}
    settings: dict[str, Any] = given | {"task": ready.task.name, "seed": seed}
    outcome = run(ready, Settings(**settings))
    model, metric = outcome.model.cpu(), ready.task.score
    network = calibrate(model, to_device(data.train.head(CALIBRATION).x, "cpu"), data.validation, metric)
    test = score(network.module, data.test, metric).value
    return Trained(seed, network, outcome.score, test, footprint(network.module))


def _written(
    asked: Asked,
    task: Task,
    data: Data,
    best: TrialRecord,
    trained: Sequence[Trained],
    front: Sequence[dict[str, Any]],
    study: str,
) -> dict[str, Any]:
    """Write the folder, and return the contents of the report as plain data."""
    shipped = trained[0]
    about = f"{task.name}, {best.parameters['method']}, within {asked.flash} bytes of flash and {asked.ram} of memory"
    samples = data.validation.head(VECTORS).x
    written = export_int8(shipped.network.module, asked.out, name=asked.name, about=about, samples=samples)
    metric = task.score.name
    result: dict[str, Any] = {
        "task": task.name,
        "study": study,
        "trial": best.number,
        "settings": {name: value for name, value in best.parameters.items() if value is not None},
        "metric": metric,
        metric: shipped.network.score.value,
        f"{metric}_float": shipped.floats,
        f"test_{metric}": shipped.test,
        "calibration": shipped.network.calibration,
        "flash": written.flash,
        "ram": written.static_bytes,
        "budget": {"flash": asked.flash, "ram": asked.ram, "floor": asked.floor},
        "kinds": written.kinds,
        "seeds": [
            {"seed": each.seed, metric: each.network.score.value, f"test_{metric}": each.test, **each.sizes}
            for each in trained
        ],
        "notes": [*best.notes, *shipped.network.notes],
        "files": [str(file) for file in (written.source, written.header, written.test) if file],
    }
    text, summary = page(result, front, task.score, running())
    report = asked.out / "report.md"
    try:
        write_text(report, text)
    except InputError:  # the folder must be new or empty when the command is given again
        for file in result["files"]:
            Path(file).unlink(missing_ok=True)
        raise
    return result | {"summary": f"{summary}\n{asked.out}: {', '.join(p.name for p in sorted(asked.out.iterdir()))}"}
