"""Prepares what all compressions of a task share: data, the full-precision model, and curvature."""

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
"""Batch size for traces; each batch has its own probes, so small batches are more precise at equal cost."""

TRACE_PROBES = 8

GLIMPSE = 8
"""Samples of a Dataset that a second ``load`` is compared by."""


@dataclass(frozen=True)
class Prepared:
    """What every compression of a task shares. The test split is not in it.

    Attributes:
        task: Data, model and recipe; its loss is the one to train with on this training split.
        train: The training split, on the device.
        validation: The split on which decisions are made, on the device.
        model: The full-precision model in evaluation mode, on the device.
        score: The model's value of the task's metric on the validation split.
        traces: Hessian trace of each layer.
        device: Torch's name of the device.
        class_weights: Weights of the classes of a balanced task, shape (classes,); otherwise None.
        simulated: Whether the data are simulated; every output then says so.
        parts: Parts of the score, such as the recall of each class.
        origin: Where the model comes from, in words.
        fingerprint: Fingerprint of the training and validation samples.
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
    """Load the data, and train the full-precision model and estimate its Hessian traces, or read both from the cache.

    Args:
        task: A task, or its name.
        seed: Random seed of the splits and of the training.
        data: The user's data file, or None for the task's own.
        device: Torch's name of the device.
        cache: Folder of trained models; None for the user's cache folder.
        curvature: Whether traces are needed; they are not if each compression is given its layers.
        weights: A safetensors file with the full-precision weights, used instead of training.
        retrain: Whether to train the full-precision model and estimate its traces even if the cache has them.
        check_test: Whether the test split is checked too, for example for samples that the training split has.
        fingerprint: Fingerprint of the expected data, see ``Prepared.fingerprint``; None to accept any.
        on_epoch: Called after each epoch if the full-precision model is trained.
        on_probe: Called if the traces are estimated; see ``layer_traces``.

    Returns:
        The input of ``run``.

    Raises:
        InputError: If the device, the task, its data or the weights cannot be used; see ``tasks.check``.
    """  # noqa: DOC502 - raised by what it calls
    described = task if isinstance(task, Task) else get_task(task)
    _check_device(device)
    splits = _checked_data(described, data, seed, fingerprint, test=check_test)
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


def _checked_data(task: Task, data: Path | str | None, seed: int, fingerprint: str | None, *, test: bool) -> Data:
    """The task's data, after everything that can be checked without training."""
    splits = load_data(task, Path(data) if data else None, seed)
    check_same_data(task, splits.fingerprint(), fingerprint)
    if fingerprint is None and task.name not in TASKS:
        _check_repeatable(task, splits, data, seed)
    with seeded(seed):
        untrained = make_model(task)
    check_task(task, splits, untrained, test=test)
    return splits


def check_same_data(task: Task, found: str, expected: str | None) -> None:
    """Check that data loaded twice are the same.

    Args:
        task: The task whose ``load`` was called again.
        found: The fingerprint now.
        expected: The fingerprint before; None where it is not known.

    Raises:
        InputError: If they differ.
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
    """Hessian traces of the full-precision model, from the file next to it or estimated now."""
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
        task: The task whose loss it is.
        model: The model, in full precision, on the samples' device.
        training: The training split.
        seed: Random seed of the samples and of the probes.
        probes: Number of probes to draw; with ``tol``, at most.
        tol: See ``layer_traces``.
        on_probe: Called after each probe, as in ``layer_traces``.

    Returns:
        A trace for each layer.
    """
    chosen = subset(training, TRACE_SAMPLES, torch.Generator().manual_seed(seed))
    batches = list(chosen.batches(TRACE_BATCH))
    return layer_traces(model, task.loss, batches, max_probes=probes, tol=tol, seed=seed, on_probe=on_probe)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used here ({str(error).splitlines()[0]}); try cpu.") from None
