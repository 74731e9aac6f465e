"""The tasks and members of the comparison, and the training of one member."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ttq_plugin.deploy.bench.bench import RUNTIME, TORCH, measured_in_turns
from ttq_plugin.deploy.bench.compared import Call
from ttq_plugin.deploy.bench.instructions import counted
from ttq_plugin.deploy.c_int8.export import footprint
from ttq_plugin.deploy.c_int8.writer import Writer
from ttq_plugin.deploy.integer.calibrated import calibrate
from ttq_plugin.deploy.runtime.runtime import TernaryRuntime
from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.reproduce.peers.entrants import Entrant, entrants
from ttq_plugin.reproduce.peers.rounds import Round, compressed, layers_of, size
from ttq_plugin.reproduce.sensors.examples import examples
from ttq_plugin.reproduce.train import Place, load_once
from ttq_plugin.statistics.counts import FROM_COUNTS
from ttq_plugin.support.inputs import call, repeated, to_device
from ttq_plugin.support.machine import environment
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.checks.check import load_data
from ttq_plugin.tasks.samples import Samples
from ttq_plugin.tasks.scoring.readings import MULTILABEL, main_output, read_classes
from ttq_plugin.tasks.scoring.scores import outputs_of, score
from ttq_plugin.tasks.task import Data, Recipe, Task
from ttq_plugin.trial.prepared import Prepared, prepare

SENSORS = ("watch-cnn", "speech-dscnn", "ecg-cnn", "esr-2dcnn", "cifar10-resnet8")
"""The tasks that take part if none is named."""

ROWS = ("pttq 90% zeros", "pttq 95% zeros", "NNI LSQ int2", "PARQ")
"""The members that are also entrants of the peers' comparison."""

DENSE, INT8 = "dense int8", "int8"
"""The row without training, and its method."""

FIRMWARE = (INT8, "pttq")
"""Methods whose networks are also converted to integers."""

CALIBRATION = 256
"""Training samples on which integer networks are calibrated."""

SECONDS = 1.0
"""Approximate time for which each form is timed."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Member(Round):
    """A training, and all that decides its result.

    Attributes:
        recipe: Recipe of the full-precision model.
    """

    recipe: Recipe | None = None


def members() -> list[Entrant]:
    """The members that are compared with full precision, in the report's order; PARQ only if torchao is installed."""
    return [row for row in entrants() if row.name in ROWS] + [Entrant(DENSE, INT8)]


def check_metric(task: Task) -> None:
    """Check that scores of several seeds can be joined person by person.

    Args:
        task: The task whose metric must follow from confusion matrices.

    Raises:
        InputError: If it does not.
    """
    if not (task.score.builtin and task.score.name in FROM_COUNTS):
        raise InputError(
            f"the sensors' report joins confusion matrices, so that the metric of {task.name} must be one of "
            f"{', '.join(FROM_COUNTS)}, got {task.score.name}."
        )


def compressed_layers(model: nn.Module) -> tuple[str, ...]:
    """The layers that every member compresses.

    Args:
        model: The full-precision model.

    Returns:
        Names of the convolutions and linear layers. Grouped (depthwise) convolutions are left out: a filter of theirs
        has a few weights, which make up little of the model and lose much when most of them become zero.
    """
    return tuple(name for name in layers_of(model) if getattr(model.get_submodule(name), "groups", 1) == 1)


def train_member(one: Member, place: Place) -> Result:
    """Train and measure.

    Args:
        one: What to train.
        place: The data, the cache and the device.

    Returns:
        As ``train_round``, with ``samples`` (of the training and the test split), ``milliseconds`` (a sample, and how
        many times as fast as torch with the full-precision model), and but while tuning ``answers`` (see ``told``),
        of the full-precision model ``examples``, and ``firmware`` where there is one: ``answers``, ``bytes`` of its
        constants, ``flash``, ``ram``, ``instructions`` (None without a counter) and ``calibration``.
    """
    started = time.perf_counter()
    task = replace(get_task(one.task), load=partial(load_once, one.task))
    task = task if one.recipe is None else replace(task, recipe=one.recipe)
    ready = prepare(task, seed=one.seed, curvature=False, data=place.data, device=place.device, cache=place.cache)
    data, metric = load_data(task, Path(place.data) if place.data else None, one.seed), task.score
    method = (one.settings or {}).get("method")
    result: Result = {
        **{"row": one.row, "seed": one.seed, "trial": one.trial, "task": one.task, "settings": one.settings},
        **{"simulated": ready.simulated, "metric": metric.name, "score": None, "test": None, "metrics": None},
        **{"zeros": None, "bytes": None, "notes": [], "environment": environment(place.device), "curve": []},
        **{"samples": [len(data.train), len(data.test)], "milliseconds": None, "answers": None, "firmware": None},
    }
    layers = compressed_layers(ready.model)
    try:
        model, notes = (ready.model, []) if method == INT8 else compressed(one, ready, layers)
    except Diverged as error:
        return result | {"notes": [f"diverged: {error}"], "seconds": time.perf_counter() - started}
    result |= {"notes": notes, "score": score(model, ready.validation, metric).value, **size(ready, model, layers)}
    if one.trial is None:
        result |= _tested(ready, model.cpu(), data, method)
    result["metrics"] = {metric.name: result["score"], "file_bytes": result["bytes"], "srqw": result["zeros"]}
    return result | {"seconds": time.perf_counter() - started}


def _tested(ready: Prepared, model: nn.Module, data: Data, method: str | None) -> Result:
    """What test data say, and what the model costs."""
    metric = ready.task.score
    found: Result = {}
    if method in FIRMWARE:
        firmware = _firmware(ready, model, data)
        found["firmware"] = firmware
        if method == INT8:  # the network on integers is all there is
            return found | {name: firmware[name] for name in ("answers", "bytes")} | {"test": firmware["test"]}
    if method is None:
        found["examples"] = examples(data.test)
    found["milliseconds"] = _milliseconds(ready.model.cpu(), model, data)
    return found | {"answers": told(model, data.test), "test": score(model, data.test, metric).value}


def told(model: nn.Module, samples: Samples) -> dict[str, Any]:
    """A model's answers as plain data.

    Args:
        model: The model, on the CPU.
        samples: A split.

    Returns:
        ``kind`` and number of ``classes``; ``truth`` and ``predicted``, class by sample, and ``groups``, a place in
        ``names`` by sample, as numbers between blanks. Without groups, each sample is a group of its own.

    Raises:
        InputError: If a sample has not one class.
    """
    reading = read_classes(*outputs_of(model, samples, main_output))
    if reading.kind == MULTILABEL or len(reading.truth) != len(samples):
        raise InputError(
            f"the sensors' report needs one class for each sample, got {len(reading.truth)} positions of the kind "
            f"{reading.kind} for {len(samples)} samples."
        )
    groups = samples.group_ids
    names, places = np.unique(np.arange(len(samples)) if groups is None else groups, return_inverse=True)
    numbers = {"truth": reading.truth, "predicted": reading.predicted, "groups": torch.from_numpy(places)}
    return {
        "kind": reading.kind,
        "classes": reading.classes,
        "grouped": groups is not None,
        "names": [str(name) for name in names] if groups is not None else [],
        **{name: " ".join(map(str, values.tolist())) for name, values in numbers.items()},
    }


def _firmware(ready: Prepared, model: nn.Module, data: Data) -> Result:
    """The network on integers, its sizes and its answers."""
    samples = to_device(data.train.head(CALIBRATION).x, "cpu")
    network = calibrate(model, samples, data.validation, ready.task.score)
    writer = Writer(network.module.program)
    return {
        "answers": told(network.module, data.test),
        "test": score(network.module, data.test, ready.task.score).value,
        "bytes": writer.data.size(),
        **footprint(network.module),
        "instructions": counted(network.module, data.validation.head(1).x),
        "calibration": network.calibration,
    }


def _milliseconds(full: nn.Module, model: nn.Module, data: Data) -> list[float]:
    """Milliseconds of one sample, and how many times as fast as torch; the runtime where a model is compressed."""
    x = repeated(data.validation.head(1).x, 1)
    calls: dict[str, Call] = {TORCH: partial(call, full)}
    with torch.inference_mode():
        if model is not full:
            calls[RUNTIME] = TernaryRuntime(model, x, onnxruntime=False)
        *_, last = measured_in_turns(calls, x, SECONDS, [])
    return [1e3 * last["latency_median"], last["speedup_torch"][1]]
