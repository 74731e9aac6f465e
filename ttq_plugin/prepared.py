"""What every compression of a task shares: its data, the full-precision model, and curvature."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ttq_plugin.curvature import LayerTrace, Traces, layer_traces
from ttq_plugin.errors import InputError
from ttq_plugin.files import write_text
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.task import Split, Task
from ttq_plugin.tasks.training import OnEpoch, batches

TRACE_SAMPLES = 1024
"""Training samples on which curvature is estimated."""

TRACE_BATCH = 64
"""A batch has probes of its own: small ones are the more precise at equal cost."""

TRACE_PROBES = 8


@dataclass(frozen=True)
class Prepared:
    """What every compression of a task shares. The test split is not in it.

    Attributes:
        task: data, model and recipe; its loss is the one to train with on this training split.
        train: the training split, on the device.
        validation: the split that decisions are made by, on the device.
        model: the full-precision model, in eval mode, on the device.
        mcc: its Matthews correlation coefficient on the validation split.
        traces: Hessian trace of each layer.
        device: torch's name of the device.
        class_weights: of a balanced task, shape (classes,); else None.
        simulated: whether the data are; every output says so.
    """

    task: Task
    train: Split
    validation: Split
    model: nn.Module
    mcc: float
    traces: tuple[LayerTrace, ...]
    device: str
    class_weights: Tensor | None = None
    simulated: bool = False


def prepare(
    task: str | Task,
    *,
    seed: int = 0,
    data: Path | str | None = None,
    device: str = "cpu",
    cache: Path | str | None = None,
    curvature: bool = True,
    on_epoch: OnEpoch | None = None,
) -> Prepared:
    """Load the data, train the full-precision model or read it from the cache, and likewise its Hessian traces.

    Args:
        task: a task's name, or a task.
        seed: of splits and training.
        data: the user's data file, or None for the task's own.
        device: torch's name of the device.
        cache: folder of trained models; None for the default.
        curvature: whether traces are needed; not if each compression is told its layers.
        on_epoch: called after each epoch if the full-precision model must be trained.

    Returns:
        What ``run`` needs.
    """
    described = task if isinstance(task, Task) else get_task(task)
    _check_device(device)
    splits = described.load(Path(data) if data else None, seed)
    trained = full_precision(
        described, splits, seed=seed, device=device, cache=Path(cache) if cache else None, on_epoch=on_epoch
    )
    model = trained.model.to(device)
    training, validation = splits.train.to(device), splits.validation.to(device)
    weights = described.class_weights(training)
    described = replace(described, loss=described.loss_for(training), balanced=False)
    file = trained.path.with_suffix(f".traces-{TRACE_PROBES}.json")
    traces = _traces(described, model, training, file, seed) if curvature else ()
    return Prepared(described, training, validation, model, trained.mcc, traces, device, weights, splits.simulated)


def _traces(task: Task, model: nn.Module, training: Split, path: Path, seed: int) -> tuple[LayerTrace, ...]:
    """Hessian traces of the full-precision model, from the file beside it or estimated now."""
    try:
        return tuple(LayerTrace(**row) for row in json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        pass
    traces = estimate_traces(task, model, training, seed=seed)
    write_text(path, json.dumps(traces.to_dict()["layers"]))
    return tuple(traces)


def estimate_traces(
    task: Task, model: nn.Module, training: Split, *, seed: int, probes: int = TRACE_PROBES, tol: float | None = None
) -> Traces:
    """Hessian traces on the first ``TRACE_SAMPLES`` training samples.

    Args:
        task: whose loss it is.
        model: in full precision, on the samples' device.
        training: the training split.
        seed: of the probes.
        probes: to draw; with ``tol``, at most.
        tol: see ``layer_traces``.

    Returns:
        A trace a layer.
    """
    sample = Split(training.x[:TRACE_SAMPLES], training.y[:TRACE_SAMPLES])
    return layer_traces(model, task.loss, list(batches(sample, TRACE_BATCH)), max_probes=probes, tol=tol, seed=seed)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used here ({str(error).splitlines()[0]}); try cpu.") from None
