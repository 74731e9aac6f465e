"""Draws a few samples that represent all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ttq_plugin.tasks.samples import Samples, Split, Stream

MOST_CLASSES = 0.1
"""Labels are classes where there are at most this many different ones a sample."""


def subset(samples: Samples, count: int, generator: torch.Generator) -> Samples:
    """Random samples without replacement, in random order; each is as likely to be among them.

    Where the targets are one class a sample, each class has its share of them, to within one sample. The targets of a
    Dataset are used only if they have been read before, because reading them takes a pass over it.

    Args:
        samples: The samples to draw from.
        count: How many at most.
        generator: Random generator of the draw.

    Returns:
        All samples where there are no more than ``count``, in random order too.
    """
    known = isinstance(samples, Split) or samples.scanned
    rows = representative(samples.targets() if known else None, len(samples), count, generator)
    return samples.take(rows) if isinstance(samples, Split) else _part(samples, rows)


def representative(targets: Any, total: int, count: int, generator: torch.Generator) -> Tensor:
    """Places of random samples, as ``subset`` draws them.

    Args:
        targets: The targets of all samples, or None.
        total: How many there are.
        count: How many at most.
        generator: Random generator of the draw.

    Returns:
        Places, int64, in random order.
    """
    order = torch.randperm(total, generator=generator)
    if total <= count:
        return order
    if _are_classes(targets, total):
        # Sorted by class, in random order within each, every (total / count)-th from a random start.
        order = order[torch.argsort(targets.flatten().cpu()[order], stable=True)]
        start = torch.rand((), generator=generator, dtype=torch.float64)
        order = order[
            ((torch.arange(count, dtype=torch.float64) + start) * (total / count)).long().clamp(max=total - 1)
        ]
        return order[torch.randperm(count, generator=generator)]
    return order[:count]


def _are_classes(targets: Any, total: int) -> bool:
    if not isinstance(targets, Tensor) or targets.numel() != total or targets.is_complex():
        return False
    if targets.is_floating_point() and not torch.equal(targets, targets.round()):
        return False
    return len(set(targets.flatten().tolist())) <= max(2, MOST_CLASSES * total)


def _part(samples: Stream, rows: Tensor) -> Stream:
    chosen = torch.utils.data.Subset(samples.dataset, rows.tolist())
    return Stream(chosen, samples.collate, samples.workers, samples.device, samples.name)
