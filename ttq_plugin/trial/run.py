"""Runs one compression, for the search, ``ttq compress`` and the reproductions."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.core.model.copying import copied
from ttq_plugin.curvature.plan import Link
from ttq_plugin.errors import Diverged
from ttq_plugin.measures import CompressionReport, measure
from ttq_plugin.methods import MIXED
from ttq_plugin.support import inputs
from ttq_plugin.support.seeds import seeded
from ttq_plugin.support.weights import load_weights, save_weights
from ttq_plugin.tasks.forward import at_precision, copy_dropout, set_dropout
from ttq_plugin.tasks.losses import TrainingStep, get_loss
from ttq_plugin.tasks.scoring.branches import ternary_shares
from ttq_plugin.tasks.scoring.scores import Score, lost_classes, score
from ttq_plugin.tasks.training import OnEpoch, optimizer_by, scheduler_by, train_by
from ttq_plugin.trial.budget import known_sizes, limited, tighten
from ttq_plugin.trial.plan import Plan, plan_of
from ttq_plugin.trial.prepared import Prepared, check_same_data, prepare
from ttq_plugin.trial.settings import Settings
from ttq_plugin.trial.tested import score_on_test

__all__ = [
    "MIXED",
    "Outcome",
    "Prepared",
    "Settings",
    "check_same_data",
    "load_weights",
    "prepare",
    "run",
    "save_weights",
    "score_on_test",
]


@dataclass(frozen=True)
class Outcome:
    """The result of one compression.

    Attributes:
        metrics: The task's metric (validation) under its name, and the numbers of the report under its keys.
        report: Sizes and costs of the compressed model.
        model: The compressed model, plain, in eval mode.
        layers: Names of the quantised layers.
        widths: Bits of those on an integer grid.
        notes: Notes on the result, such as thresholds that were lowered.
        losses: Mean training loss of each epoch.
        health: After each epoch, each ternary layer's zero share, sign flips, scales and thresholds as flat numbers.
        seconds: Wall time.
        parts: Parts of the validation score, such as the recall of each class.
        metric: Name of the task's metric.
    """

    metrics: dict[str, float]
    report: CompressionReport
    model: nn.Module
    layers: tuple[str, ...]
    widths: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    health: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    metric: str = "mcc"

    @property
    def score(self) -> float:
        """The task's metric on validation data."""
        return self.metrics[self.metric]


@dataclass(frozen=True)
class Look:
    """A training after one of its epochs.

    Attributes:
        epoch: Its number, from 1.
        dead: Layers without a weight that does anything.
        measure: Gives the numbers of ``Outcome.metrics`` that the model would have if training ended here, but for
            the sizes that a prescribed share of zeros will give it at the end; costs a pass over the validation split,
            and leaves the training as it is.
    """

    epoch: int
    dead: tuple[str, ...]
    measure: Callable[[], dict[str, float]]


def run(
    prepared: Prepared,
    settings: Settings,
    *,
    config_list: list[dict[str, Any]] | None = None,
    chain: Sequence[Link] | None = None,
    on_epoch: OnEpoch | None = None,
    on_look: Callable[[Look], None] | None = None,
) -> Outcome:
    """Compress the task's model once.

    Args:
        prepared: What ``prepare`` returned for the same task.
        settings: The method and its numbers.
        config_list: NNI's configuration list, to choose the layers; None for the layers with the lowest estimated
            sensitivity that together hold at least ``settings.share`` of the weights.
        chain: A method for each layer, such as a ``Selection``'s chain; the settings' method is then ``mixed``.
        on_epoch: Called after each epoch.
        on_look: Called after each epoch with a way to measure the model as it is; an exception ends the training.

    Returns:
        The compressed model, its score on the validation split, and what it costs.

    Raises:
        InputError: If the settings are invalid.
        Diverged: If a weight becomes NaN or infinite.
    """  # noqa: DOC502 - raised by what it calls
    started = time.perf_counter()
    diary = _Diary()

    def after_epoch(epoch: int, loss: float) -> None:
        dead = diary.write(loss, quantizers)
        if on_epoch is not None:
            on_epoch(epoch, loss)
        if on_look is not None:
            on_look(Look(epoch, dead, lambda: _provisional(prepared, quantizers, sizes)))

    plan = plan_of(prepared, settings, config_list, chain)
    sizes = partial(_sizes, prepared, plan, {})
    with seeded(settings.seed, prepared.device):
        quantizers = _quantizers(prepared, settings, plan.links, after_epoch)
        quantizers.compress(max_epochs=settings.epochs)
    fitted = [] if limited(settings) is None else _fit_budget(prepared, settings, quantizers, plan.zeros)
    found = _measured(prepared, quantizers)
    lost = lost_classes(prepared.parts, found.score.parts, prepared.task.classes)
    return Outcome(
        metrics=found.metrics,
        report=found.report,
        model=found.model,
        layers=quantizers.layers,
        widths=_widths(quantizers),
        notes=[*plan.notes, *quantizers.notes, *fitted, *diary.problems, *lost],
        losses=diary.losses,
        health=diary.health,
        seconds=time.perf_counter() - started,
        parts=found.score.parts | ternary_shares(prepared.model, quantizers.layers),
        metric=prepared.task.score.name,
    )


@dataclass
class _Diary:
    """Records what happens after each epoch of a training."""

    losses: list[float] = field(default_factory=list)
    health: list[dict[str, float]] = field(default_factory=list)
    problems: dict[str, None] = field(default_factory=dict)

    def write(self, loss: float, quantizers: Any) -> tuple[str, ...]:
        """Note an epoch; returns the names of the layers without a weight that does anything."""
        self.losses.append(loss)
        with warnings.catch_warnings(action="ignore"):  # the notes tell it once
            look = quantizers.health()
        self.health.append(look.to_dict())
        self.problems.update({f"{layer.name}: {layer.problem}": None for layer in look.layers if layer.problem})
        return tuple(layer.name for layer in look.layers if layer.dead)


@dataclass(frozen=True)
class _Measured:
    """A compressed model with its numbers."""

    metrics: dict[str, float]
    score: Score
    report: CompressionReport
    model: nn.Module


def _provisional(
    prepared: Prepared, quantizers: Any, sizes: Callable[[], dict[str, float]]
) -> dict[str, float]:  # fmt: skip
    """A training's numbers before its end: its score now, and its sizes at the end if they are known, else now."""
    if not (known := sizes()):
        return _measured(prepared, quantizers).metrics
    metric = prepared.task.score
    return {metric.name: score(_exported(prepared, quantizers), prepared.validation, metric).value} | known


def _sizes(prepared: Prepared, plan: Plan, known: dict[str, float]) -> dict[str, float]:
    """The cost of the model at the end of a training, computed once; empty if no share of zeros determines it."""
    if plan.zeros is not None and not known:
        known |= known_sizes(prepared, plan.links[0].config_list, plan.zeros)
    return known


def _exported(prepared: Prepared, quantizers: Any) -> nn.Module:
    """The quantizers' model as it is now, plain; Diverged if its weights are not finite."""
    compressed: nn.Module = quantizers.export_model().eval()
    copy_dropout(prepared.model, compressed)
    if not all(bool(torch.isfinite(p).all()) for p in compressed.parameters()):
        raise Diverged("a weight became NaN or infinite")
    return compressed


def _measured(prepared: Prepared, quantizers: Any) -> _Measured:
    """Score and cost of the quantizers' model as it is now, and that model, plain."""
    compressed = _exported(prepared, quantizers)
    example = prepared.validation.head(1).x
    report = measure(prepared.model, compressed, example, layers=quantizers.layers, widths=_widths(quantizers))
    numbers = {k: float(v) for k, v in report.to_dict().items() if isinstance(v, (int, float))}
    found = score(compressed, prepared.validation, prepared.task.score)
    return _Measured({prepared.task.score.name: found.value} | numbers, found, report, compressed)


def _widths(quantizers: Any) -> dict[str, int]:
    """Bits of the integer layers; NNI's of two bits are -1, 0 and 1: ternary layers like the others."""
    return {name: bits for name, bits in quantizers.widths.items() if bits > 2}


def _fit_budget(prepared: Prepared, settings: Settings, quantizers: Any, zeros: float | None) -> list[str]:
    """Keep the settings' budget, and note the share of zeros."""
    assert zeros is not None
    name, most = limited(settings) or ("", 0.0)
    told = tighten(prepared, settings, quantizers, zeros)
    return [f"{name} = {most:g} requires {zeros:.2%} zeros.", *([told] if told else [])]


def _quantizers(prepared: Prepared, settings: Settings, links: Sequence[Link], on_epoch: OnEpoch) -> Any:
    import nni
    from nni.compression.utils import TorchEvaluator

    from ttq_plugin.nni_adapter.chain import QuantizerChain

    task, recipe = prepared.task, prepared.task.recipe
    model = copied(prepared.model)
    set_dropout(model, recipe.dropout if settings.dropout is None else settings.dropout)
    optimizer = optimizer_by(recipe, model.parameters(), settings.lr, trace=nni.trace)
    scheduler = scheduler_by(recipe, optimizer, prepared.train, lr=settings.lr, epochs=settings.epochs, trace=nni.trace)

    def fit(net: nn.Module, optim: Any, step: Callable[..., Tensor], schedule: Any, _: Any, epochs: int) -> None:
        split, seed = prepared.train, settings.seed
        train_by(recipe, net, optim, schedule, step, split, epochs=epochs, seed=seed, on_epoch=on_epoch)

    step: TrainingStep = lambda batch, net: task.loss(inputs.call(net, batch[0]), batch[1])  # noqa: E731
    if settings.loss is not None:
        step = get_loss(settings.loss).training_step(prepared.class_weights, teacher=prepared.model)
    step = at_precision(step, settings.precision or recipe.precision)
    evaluator = TorchEvaluator(fit, optimizer, step, scheduler)
    rates = {"lr_scale": settings.lr_scale, "lr_threshold": settings.lr_threshold}
    return QuantizerChain(model, links, evaluator, on_empty="clip", **rates)
