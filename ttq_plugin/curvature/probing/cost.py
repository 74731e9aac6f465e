"""The cost of a trace estimate in training steps and seconds, and how many products a probe may have."""

import time
from collections.abc import Callable, Sized
from dataclasses import dataclass, replace
from typing import Any

import torch

from ttq_plugin.curvature.probing.gradients import Loss, checked_loss
from ttq_plugin.curvature.probing.probes import Gradients, Probes
from ttq_plugin.curvature.probing.work import work
from ttq_plugin.support.progress import Bars

MOST_STEPS = 8.0
"""Training steps that a probe of one batch may cost."""

OF_PRODUCTS = 6.0
"""Training steps of these that are left for the products; the rest is for the graph, the looks, and uncounted work."""

LEAST = 1e-3
"""Smallest cost of another block, in training steps."""

LOOKS = 2
"""Most numbers of blocks that are tried on the first batch."""


@dataclass(frozen=True)
class Cost:
    """What an estimate is expected to cost, by its first batch.

    Attributes:
        layers: The layers that are measured.
        products: Hessian-vector products a probe and batch.
        steps: Training steps (forward and backward) that a probe of one batch costs.
        step_seconds: The seconds that a training step takes, timed on the first batch.
        probes: Number of probes to draw, at most.
        batches: Number of batches to pass over; None if it is not known before.
    """

    layers: int
    products: int
    steps: float
    step_seconds: float
    probes: int = 1
    batches: int | None = None

    def of(self, probes: int, batches: object) -> "Cost":
        """The cost of this many probes of these batches."""
        return replace(self, probes=probes, batches=len(batches) if isinstance(batches, Sized) else None)

    @property
    def total(self) -> int | None:
        """Probes of all batches, at most."""
        return None if self.batches is None else self.probes * self.batches

    @property
    def seconds(self) -> float | None:
        """Seconds of the whole estimate, at most."""
        return None if self.total is None else self.total * self.steps * self.step_seconds

    def __str__(self) -> str:
        each = (
            f"{self.products} product{'s' if self.products > 1 else ''} a probe, about {self.steps:.1f} training steps"
        )
        batches = "each batch" if self.batches is None else f"{self.batches} batch{'es' if self.batches > 1 else ''}"
        takes = "" if self.seconds is None else f", about {_duration(self.seconds)}"
        return f"Hessian traces of {self.layers} layers: {each}; {self.probes} probes of {batches}{takes}."


OnProbe = Callable[[Cost, int], None]
"""Called with the expected cost and the number of probes that are done: first with none."""


def planned(
    gradients: Gradients,
    probes: Probes,
    generator: torch.Generator,
    step: tuple[float, float],
    graph: float,
    joint: bool | None,
) -> tuple[Probes, Cost]:
    """Determine from the first batch how many blocks of layers a probe may have, their scales and the cost.

    The number of blocks follows from operations counted, not from times, so that the same call draws the same probes.

    Args:
        gradients: The gradients of the batch, with their graph.
        probes: The probes that the caller asked for, without scales.
        generator: Random generator of the looks.
        step: `training_step` of the batch.
        graph: Work of the gradients' graph, of each probe its share.
        joint: None for as many blocks as fit; else the probes stay as they are.

    Returns:
        The probes to draw, and what one of them costs.
    """
    layers = len(probes.weights)
    looked = [probes.cut(1)]

    def look() -> None:
        looked.append(looked[-1].look(gradients, generator))

    whole = work(look) / step[0]
    # A product of layers in the middle stops half-way: of blocks alike, each costs half a joint one on the average. But
    # layers are not alike: what a block more costs is seen on some.
    count, each = len(probes.blocks), whole / 2
    if joint is None and layers > 1:
        count = max(2, _fitting(layers, whole, each))
        for _ in range(LOOKS):
            looked.append(looked[-1].cut(count))
            each = max((work(look) / step[0] - whole) / (count - 1), LEAST)
            tried, count = count, _fitting(layers, whole, each)
            if count <= 2 * tried:
                break
        probes = looked[-1].cut(count)
    return probes, Cost(layers, count, graph / step[0] + whole + (count - 1) * each, step[1])


def training_step(model: torch.nn.Module, loss_fn: Loss, x: Any, y: Any) -> tuple[float, float]:
    """Work and seconds of one training step, the optimiser's part left out; `.grad` is not touched.

    Args:
        model: The model, in evaluation mode.
        loss_fn: (output, y) -> scalar.
        x: Tensors (batch, ...).
        y: Whatever the loss takes.

    Returns:
        Both.
    """
    trained = [p for p in model.parameters() if p.requires_grad]

    def step() -> None:
        torch.autograd.grad(checked_loss(model, loss_fn, x, y, 0), trained, allow_unused=True)

    counted = work(step)  # this call also warms up
    started = time.perf_counter()
    step()
    if trained[0].device.type == "cuda":
        torch.cuda.synchronize(trained[0].device)
    return counted, time.perf_counter() - started


def _fitting(layers: int, first: float, each: float) -> int:
    """The most blocks that fit, of which the first costs `first` training steps and each other one `each`."""
    return max(1, min(layers, 1 + int((OF_PRODUCTS - first) / each))) if first < OF_PRODUCTS else 1


def trace_bar(bars: Bars) -> OnProbe:
    """Show the expected cost and a progress bar over the probes; returns the function that moves it."""
    tasks: list[Any] = []

    def on_probe(cost: Cost, done: int) -> None:
        if not tasks:
            bars.tell(str(cost))
            tasks.append(bars.add_task("Hessian traces", total=cost.total, note=""))
        bars.update(tasks[0], completed=done)

    return on_probe


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "a second"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
