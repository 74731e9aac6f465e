"""One compression, from settings to result: what the search, ``ttq compress`` and the reproductions all call."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.core import get_method
from ttq_plugin.curvature import LayerTrace, layer_traces, select
from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.files import load_weights, save_weights, write_text
from ttq_plugin.measures import CompressionReport, measure
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.task import Split, Task
from ttq_plugin.tasks.training import OnEpoch, batches, mcc, train

__all__ = ["Outcome", "Prepared", "Settings", "load_weights", "prepare", "run", "save_weights", "score_on_test"]

TRACE_SAMPLES = 1024
"""Training samples on which curvature is estimated."""

TRACE_PROBES = 32


@dataclass(frozen=True)
class Settings:
    """What distinguishes one compression from another.

    Attributes:
        task: a task's name.
        method: a key of ``METHODS``.
        t: TTQ's threshold, as a share of max|w|; None for the method's default, as all that may be None.
        t_min: aTTQ's and pTTQ's negative threshold, in standard deviations.
        t_max: their positive threshold.
        alpha: dimensionless slope of the surrogate (pTTQ).
        lr: learning rate of the weights.
        lr_scale: of the scales.
        lr_threshold: of the thresholds (pTTQ).
        epochs: passes over the training split.
        share: share of the candidate layers' weights to quantise, flattest layers first.
        seed: of sample order and dropout.
    """

    task: str
    method: str
    t: float | None = None
    t_min: float | None = None
    t_max: float | None = None
    alpha: float | None = None
    lr: float = 1e-3
    lr_scale: float = 1e-3
    lr_threshold: float | None = 1e-4
    epochs: int = 20
    share: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("lr", "lr_scale", "lr_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1e3:
                raise InputError(f"{name} must be positive, got {value:g}.")
        if self.epochs < 1:
            raise InputError(f"epochs must be at least 1, got {self.epochs}.")
        self.options()

    def options(self) -> dict[str, float]:
        """The method's own numbers, those that were given.

        Returns:
            Keywords for the quantizer.

        Raises:
            InputError: if a number was given that the method does not have or allow.
        """
        method = get_method(self.method)
        given = {name: getattr(self, name) for name in ("t", "t_min", "t_max", "alpha")}
        options = {name: value for name, value in given.items() if value is not None}
        allowed = {*method.rule.names, "alpha"}
        if extra := sorted(set(options) - allowed):
            raise InputError(f"{self.method} has no {extra[0]}; it takes {', '.join(sorted(allowed))}.")
        method.configure(**options)
        return options


@dataclass(frozen=True)
class Prepared:
    """What every compression of a task shares. The test split is not in it.

    Attributes:
        task: data, model and recipe.
        train: the training split, on the device.
        validation: the split that decisions are made by, on the device.
        model: the full-precision model, in eval mode, on the device.
        mcc: its Matthews correlation coefficient on the validation split.
        traces: Hessian trace of each layer.
        device: torch's name of the device.
    """

    task: Task
    train: Split
    validation: Split
    model: nn.Module
    mcc: float
    traces: tuple[LayerTrace, ...]
    device: str


@dataclass(frozen=True)
class Outcome:
    """The result of one compression.

    Attributes:
        metrics: ``mcc`` (validation) and the numbers of the report under its keys.
        report: what the compressed model costs.
        model: the compressed model, plain, in eval mode.
        layers: names of the quantised layers.
        notes: what a reader of the result must know, such as thresholds that were lowered.
        losses: mean training loss of each epoch.
        health: after each epoch, each layer's zero share, sign flips, scales and thresholds as flat numbers.
        seconds: wall time.
    """

    metrics: dict[str, float]
    report: CompressionReport
    model: nn.Module
    layers: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    health: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def prepare(
    task: str,
    *,
    seed: int = 0,
    data: Path | str | None = None,
    device: str = "cpu",
    cache: Path | str | None = None,
    on_epoch: OnEpoch | None = None,
) -> Prepared:
    """Load the data, train the full-precision model or read it from the cache, and likewise its Hessian traces.

    Args:
        task: a task's name.
        seed: of splits and training.
        data: the user's data file, or None for the task's own.
        device: torch's name of the device.
        cache: folder of trained models; None for the default.
        on_epoch: called after each epoch if the full-precision model must be trained.

    Returns:
        What ``run`` needs.
    """
    described = get_task(task)
    _check_device(device)
    splits = described.load(Path(data) if data else None, seed)
    trained = full_precision(
        described, splits, seed=seed, device=device, cache=Path(cache) if cache else None, on_epoch=on_epoch
    )
    model = trained.model.to(device)
    training, validation = splits.train.to(device), splits.validation.to(device)
    traces = _traces(described, model, training, trained.path.with_suffix(".traces.json"), seed)
    return Prepared(described, training, validation, model, trained.mcc, traces, device)


def run(
    prepared: Prepared,
    settings: Settings,
    *,
    config_list: list[dict[str, Any]] | None = None,
    on_epoch: OnEpoch | None = None,
) -> Outcome:
    """Compress the task's model once.

    Args:
        prepared: from ``prepare`` for the same task.
        settings: the method and its numbers.
        config_list: NNI's, to choose the layers; None for the flattest ones up to ``settings.share``.
        on_epoch: called after each epoch.

    Returns:
        The compressed model, its score on the validation split, and what it costs.

    Raises:
        InputError: for settings that cannot work.
        Diverged: if training leaves the finite numbers.
    """
    started = time.perf_counter()
    losses: list[float] = []
    health: list[dict[str, float]] = []
    problems: dict[str, None] = {}

    def note(epoch: int, loss: float) -> None:
        losses.append(loss)
        with warnings.catch_warnings(action="ignore"):  # told once, in the notes
            look = quantizer.health()
        health.append(look.to_dict())
        problems.update({f"{layer.name}: {layer.problem}": None for layer in look.layers if layer.problem})
        if on_epoch is not None:
            on_epoch(epoch, loss)

    chosen = config_list or select(prepared.traces, settings.share).config_list
    with torch.random.fork_rng(devices=[prepared.device] if prepared.device.startswith("cuda") else []):
        torch.manual_seed(settings.seed)
        quantizer = _quantizer(prepared, settings, chosen, note)
        quantizer.compress(max_epochs=settings.epochs)
        compressed = quantizer.export_model().eval()
    if not all(bool(torch.isfinite(p).all()) for p in compressed.parameters()):
        raise Diverged("a weight became NaN or infinite")
    layers = tuple(quantizer.states())
    report = measure(prepared.model, compressed, prepared.validation.x[:1], layers=layers)
    numbers = {k: float(v) for k, v in report.to_dict().items() if isinstance(v, (int, float))}
    metrics = {"mcc": mcc(compressed, prepared.validation)} | numbers
    seconds = time.perf_counter() - started
    return Outcome(metrics, report, compressed, layers, [*quantizer.notes, *problems], losses, health, seconds)


def score_on_test(task: str, models: Iterable[nn.Module], *, seed: int, data: Path | str | None = None) -> list[float]:
    """Scores of finished models on the test split; nothing may be decided by them.

    Args:
        task: a task's name.
        models: on the CPU.
        seed: the one that their training's splits were made with.
        data: the user's data file, as in ``prepare``.

    Returns:
        Matthews correlation coefficient of each, in [-1, 1].
    """
    test = get_task(task).load(Path(data) if data else None, seed).test
    return [mcc(model, test) for model in models]


def _quantizer(prepared: Prepared, settings: Settings, config_list: list[dict[str, Any]], on_epoch: OnEpoch) -> Any:
    import nni
    from nni.compression.utils import TorchEvaluator

    from ttq_plugin.nni_adapter import PTTQQuantizer

    task = prepared.task
    model = deepcopy(prepared.model)
    optimizer = nni.trace(torch.optim.Adamax)(model.parameters(), lr=settings.lr, weight_decay=task.recipe.weight_decay)
    scheduler = nni.trace(torch.optim.lr_scheduler.CosineAnnealingLR)(optimizer, T_max=settings.epochs)

    def fit(net: nn.Module, optim: Any, step: Callable[..., Tensor], schedule: Any, _: Any, epochs: int) -> None:
        train(
            net,
            optim,
            schedule,
            step,
            prepared.train,
            epochs=epochs,
            batch_size=task.recipe.batch_size,
            seed=settings.seed,
            on_epoch=on_epoch,
        )

    evaluator = TorchEvaluator(fit, optimizer, lambda batch, net: task.loss(net(batch[0]), batch[1]), scheduler)
    return PTTQQuantizer(
        model,
        config_list,
        evaluator,
        lr_scale=settings.lr_scale,
        lr_threshold=settings.lr_threshold,
        method=settings.method,
        on_empty="clip",
        **settings.options(),
    )


def _traces(task: Task, model: nn.Module, training: Split, path: Path, seed: int) -> tuple[LayerTrace, ...]:
    """Hessian traces of the full-precision model, from the file beside it or estimated now."""
    try:
        return tuple(LayerTrace(**row) for row in json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        pass
    sample = Split(training.x[:TRACE_SAMPLES], training.y[:TRACE_SAMPLES])
    traces = layer_traces(model, task.loss, list(batches(sample, 256)), probes=TRACE_PROBES, seed=seed)
    write_text(path, json.dumps(traces.to_dict()["layers"]))
    return tuple(traces)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used here ({str(error).splitlines()[0]}); try cpu.") from None
