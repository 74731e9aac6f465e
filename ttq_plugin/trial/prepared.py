"""What every compression of a task shares: its data, the full-precision model, and curvature."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ttq_plugin.curvature import LayerTrace, Traces, layer_traces
from ttq_plugin.curvature.probing.cost import OnProbe
from ttq_plugin.errors import InputError
from ttq_plugin.support.files import read_json, write_json
from ttq_plugin.support.seeds import seeded
from ttq_plugin.tasks import TASKS, get_task
from ttq_plugin.tasks.checks.check import check_task, load_data, make_model
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.samples import Samples, Split
from ttq_plugin.tasks.task import Data, Task
from ttq_plugin.tasks.training import OnEpoch
from ttq_plugin.trial.sampling import subset

TRACE_SAMPLES = 1024
"""Training samples on which curvature is estimated."""

TRACE_BATCH = 64
"""A batch has probes of its own: small ones are the more precise at equal cost."""

TRACE_PROBES = 8

GLIMPSE = 8
"""Samples of a Dataset that a second ``load`` is compared by."""


@dataclass(frozen=True)
class Prepared:
    """What every compression of a task shares. The test split is not in it.

    Attributes:
        task: data, model and recipe; its loss is the one to train with on this training split.
        train: the training split, on the device.
        validation: the split that decisions are made by, on the device.
        model: the full-precision model, in eval mode, on the device.
        score: its value of the task's metric on the validation split.
        traces: Hessian trace of each layer.
        device: torch's name of the device.
        class_weights: of a balanced task, shape (classes,); else None.
        simulated: whether the data are; every output says so.
        parts: what the score is made of, such as the recall of each class.
        origin: where the model is from, in words.
        fingerprint: of the training and validation samples.
    """

    task: Task
    train: Samples
    validation: Samples
    model: nn.Module
    score: float
    traces: tuple[LayerTrace, ...]
    device: str
    class_weights: Tensor | None = None
    simulated: bool = False
    parts: dict[str, float] = field(default_factory=dict)
    origin: str = ""
    fingerprint: str = ""


def prepare(
    task: str | Task,
    *,
    seed: int = 0,
    data: Path | str | None = None,
    device: str = "cpu",
    cache: Path | str | None = None,
    curvature: bool = True,
    weights: Path | str | None = None,
    retrain: bool = False,
    check_test: bool = False,
    fingerprint: str | None = None,
    on_epoch: OnEpoch | None = None,
    on_probe: OnProbe | None = None,
) -> Prepared:
    """Load the data, train the full-precision model or read it from the cache, and likewise its Hessian traces.

    Args:
        task: a task's name, or a task.
        seed: of splits and training.
        data: the user's data file, or None for the task's own.
        device: torch's name of the device.
        cache: folder of trained models; None for the default.
        curvature: whether traces are needed; not if each compression is told its layers.
        weights: the user's own full-precision model, a safetensors file; nothing is trained then.
        retrain: whether to train the full-precision model in any case, and estimate its traces again.
        check_test: whether mistakes are looked for in the test split too, such as samples that the training split has.
        fingerprint: of the data that are expected, see ``Prepared.fingerprint``; None to take any.
        on_epoch: called after each epoch if the full-precision model must be trained.
        on_probe: see ``layer_traces``; called if the traces must be estimated.

    Returns:
        What ``run`` needs.

    Raises:
        InputError: if the device, the task, its data or the weights cannot be used; see ``tasks.check``.
    """
    described = task if isinstance(task, Task) else get_task(task)
    _check_device(device)
    splits = load_data(described, Path(data) if data else None, seed)
    check_same_data(described, splits.fingerprint(), fingerprint)
    if fingerprint is None and described.name not in TASKS:
        _check_repeatable(described, splits, data, seed)
    with seeded(seed):
        untrained = make_model(described)
    check_task(described, splits, untrained, test=check_test)
    trained = full_precision(
        described,
        splits,
        seed=seed,
        device=device,
        cache=Path(cache) if cache else None,
        weights=Path(weights) if weights else None,
        retrain=retrain,
        on_epoch=on_epoch,
    )
    model = trained.model.to(device)
    training, validation = splits.train.to(device), splits.validation.to(device)
    class_weights = described.class_weights(training)
    described = replace(described, loss=described.loss_for(training), balanced=False)
    fresh = retrain or trained.trained
    file = trained.path.with_suffix(f".traces-{TRACE_PROBES}x{TRACE_SAMPLES}.json")
    traces = _traces(described, model, training, file, seed, fresh, on_probe) if curvature else ()
    return Prepared(
        task=described,
        train=training,
        validation=validation,
        model=model,
        score=trained.score,
        traces=traces,
        device=device,
        class_weights=class_weights,
        simulated=splits.simulated,
        parts=trained.parts,
        origin=trained.origin,
        fingerprint=splits.fingerprint(),
    )


def check_same_data(task: Task, found: str, expected: str | None) -> None:
    """Check that data loaded twice are the same.

    Args:
        task: whose ``load`` was called again.
        found: the fingerprint now.
        expected: the fingerprint before; None where it is not known.

    Raises:
        InputError: if they differ.
    """
    if expected is not None and found != expected:
        raise InputError(
            f"load of {task.name} must give the same data for the same arguments, but gave other samples than before; "
            "draw every random number in it from its seed, or give a Dataset that augments an attribute `fingerprint`."
        )


def _check_repeatable(task: Task, splits: Data, data: Path | str | None, seed: int) -> None:
    """Call a user's ``load`` a second time: what differs would be found by each worker, after the training."""
    again = load_data(task, Path(data) if data else None, seed)
    for name in ("train", "validation", "test"):
        one, other = (_glimpse(getattr(each, name)) for each in (splits, again))
        check_same_data(task, other, one)


def _glimpse(samples: Samples) -> str:
    """All samples in memory, as one hash; of a Dataset its length and first samples, for it may take long to read."""
    if isinstance(samples, Split) or hasattr(samples.dataset, "fingerprint"):
        return samples.digest()
    with seeded(0):
        return f"{len(samples)}-{samples.head(GLIMPSE).digest()}"


def _traces(
    task: Task,
    model: nn.Module,
    training: Samples,
    path: Path,
    seed: int,
    fresh: bool,
    on_probe: OnProbe | None,
) -> tuple[LayerTrace, ...]:
    """Hessian traces of the full-precision model, from the file beside it or estimated now."""
    if not fresh and path.is_file():
        with contextlib.suppress(TypeError):  # another version's: they are estimated again
            return tuple(LayerTrace(**row) for row in read_json(path))
    traces = estimate_traces(task, model, training, seed=seed, on_probe=on_probe)
    write_json(path, traces.to_dict()["layers"])
    return tuple(traces)


def estimate_traces(
    task: Task,
    model: nn.Module,
    training: Samples,
    *,
    seed: int,
    probes: int = TRACE_PROBES,
    tol: float | None = None,
    on_probe: OnProbe | None = None,
) -> Traces:
    """Hessian traces on ``TRACE_SAMPLES`` random training samples, of each class its share.

    Args:
        task: whose loss it is.
        model: in full precision, on the samples' device.
        training: the training split.
        seed: of the samples and of the probes.
        probes: to draw; with ``tol``, at most.
        tol: see ``layer_traces``.
        on_probe: likewise.

    Returns:
        A trace a layer.
    """
    chosen = subset(training, TRACE_SAMPLES, torch.Generator().manual_seed(seed))
    batches = list(chosen.batches(TRACE_BATCH))
    return layer_traces(model, task.loss, batches, max_probes=probes, tol=tol, seed=seed, on_probe=on_probe)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used here ({str(error).splitlines()[0]}); try cpu.") from None
