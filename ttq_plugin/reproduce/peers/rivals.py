"""Trains the methods that are not quantizers of this package: magnitude pruning with eight bits, and PARQ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.core.model.copying import copied
from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.reproduce.peers.entrants import PARQ, PRUNED
from ttq_plugin.support import inputs
from ttq_plugin.support.seeds import seeded
from ttq_plugin.tasks.forward import at_precision, copy_dropout, set_dropout
from ttq_plugin.tasks.training import optimizer_by, scheduler_by, train_by
from ttq_plugin.trial.prepared import Prepared

RISE = 0.7
"""Share of the epochs over which the share of pruned weights rises."""


def rival(ready: Prepared, layers: Sequence[str], settings: dict[str, Any], seed: int) -> nn.Module:
    """Train such a method from the full-precision model.

    Args:
        ready: What compressions of the task share.
        layers: The layers whose weights it compresses.
        settings: ``method``, ``lr``, ``epochs`` and, where the method has one, ``zeros``.
        seed: Random seed of sample order and dropout.

    Returns:
        The compressed model, in evaluation mode.

    Raises:
        InputError: If the method is unknown.
        Diverged: If the training leaves the finite numbers.
    """
    makers: dict[str, Callable[..., nn.Module]] = {PRUNED: _pruned, PARQ: _parq}
    if settings["method"] not in makers:
        raise InputError(f"the rival must be one of {', '.join(makers)}, got {settings['method']!r}.")
    model = copied(ready.model)
    weights = [model.get_submodule(name).weight for name in layers]
    with seeded(seed, ready.device):
        made = makers[settings["method"]](ready, model, weights, settings, seed)
    if not all(bool(torch.isfinite(p).all()) for p in made.parameters()):
        raise Diverged("a weight became NaN or infinite")
    return made.eval()


def _fit(
    ready: Prepared,
    model: nn.Module,
    optimizer: Any,
    settings: dict[str, Any],
    seed: int,
    after: Callable[[int, int], None],
) -> None:
    """The task's own training, with a call after each step that is told its number and how many there are."""
    recipe, split = ready.task.recipe, ready.train
    length = {"epochs": settings["epochs"]}
    total = settings["epochs"] * -(-len(split) // recipe.batch_size)
    count = 0

    def step(batch: Any, net: nn.Module) -> Tensor:
        nonlocal count
        if count:
            after(count, total)
        count += 1
        return ready.task.loss(inputs.call(net, batch[0]), batch[1])

    scheduler = scheduler_by(recipe, optimizer, split, lr=settings["lr"], **length)
    set_dropout(model, recipe.dropout)
    train_by(recipe, model, optimizer, scheduler, at_precision(step, recipe.precision), split, **length, seed=seed)
    copy_dropout(ready.model, model)
    after(total, total)


def _pruned(ready: Prepared, model: nn.Module, weights: list[Tensor], settings: dict[str, Any], seed: int) -> nn.Module:
    """The smallest weights of all layers together are masked, more of them as training goes on, cubically."""
    optimizer = optimizer_by(ready.task.recipe, model.parameters(), settings["lr"])

    def after(step: int, total: int) -> None:
        progress = min(1.0, step / (RISE * total))
        share = settings["zeros"] * (1 - (1 - progress) ** 3)
        with torch.no_grad():
            sizes = torch.cat([weight.abs().reshape(-1) for weight in weights])
            count = round(share * len(sizes))
            if count:
                limit = sizes.kthvalue(count).values
                for weight in weights:
                    weight.mul_(weight.abs() > limit)

    _fit(ready, model, optimizer, settings, seed, after)
    with torch.no_grad():
        for weight in weights:
            codes, scales = eight_bits(weight)
            weight.copy_((codes * scales).reshape(weight.shape))
    return model


def eight_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight on a grid of eight bits, the same on both sides of zero.

    Args:
        weight: Shape (channels, ...).

    Returns:
        Whole numbers from -127 to 127, shape (channels, n), and the step of each channel, shape (channels, 1).
    """
    rows = weight.detach().reshape(len(weight), -1)
    scales = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return (rows / scales).round(), scales


def _parq(ready: Prepared, model: nn.Module, weights: list[Tensor], settings: dict[str, Any], seed: int) -> nn.Module:
    from torchao.prototype.parq.optim import ProxPARQ, QuantOptimizer
    from torchao.prototype.parq.quant import LSBQuantizer

    chosen = {id(weight) for weight in weights}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    recipe = ready.task.recipe
    steps = settings["epochs"] * -(-len(ready.train) // recipe.batch_size)
    groups = [{"params": weights, "quant_bits": 0}, {"params": rest}]
    base = optimizer_by(recipe, groups, settings["lr"])
    hardening = ProxPARQ(round(0.1 * steps), round(0.9 * steps), steepness=20)
    optimizer = QuantOptimizer(base, LSBQuantizer(), hardening, quant_period=10)
    _fit(ready, model, optimizer, settings, seed, lambda step, total: None)
    return model
