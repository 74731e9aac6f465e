"""A few test samples, small enough to be kept with a result and drawn beside the models' answers."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttq_plugin.support import inputs
from ttq_plugin.tasks.samples import Samples

MOST = 6
"""Samples that are kept."""

LEVELS = 255
"""Steps between a sample's least and greatest number."""


def examples(samples: Samples) -> dict[str, Any]:
    """Keep some samples of the first group, of as many classes as it has.

    Args:
        samples: The test split.

    Returns:
        ``places`` in the split, ``group`` (None where none is known), and a list ``x`` of samples: ``shape``, and
        numbers as base64 of unsigned bytes between ``low`` and ``high``. Of several inputs, the first is kept.
    """
    groups = samples.group_ids
    targets = samples.targets()
    labels = targets.reshape(len(samples), -1)[:, 0] if isinstance(targets, Tensor) else torch.zeros(len(samples))
    own = np.arange(len(samples)) if groups is None else np.flatnonzero(groups == groups[0])
    places = _of_each_class(own, labels.numpy())
    last = inputs.tensors(samples.head(int(places.max()) + 1).x)[0]
    kept = [_encoded(last[int(place)].detach().cpu().float()) for place in places]
    return {"places": places.tolist(), "group": None if groups is None else str(groups[0]), "x": kept}


def decoded(kept: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A sample as it was kept, to 1/255 of its span.

    Args:
        kept: One of ``x``.

    Returns:
        Its numbers, in its shape.
    """
    levels = np.frombuffer(base64.b64decode(kept["x"]), np.uint8).reshape(kept["shape"])
    found: np.ndarray[Any, np.dtype[np.float64]] = kept["low"] + (kept["high"] - kept["low"]) * levels / LEVELS
    return found


def _of_each_class(own: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Places of the classes in turn, the first of each, then the second of each, in their order in the split."""
    turns = np.zeros(len(own), dtype=int)
    for label in np.unique(labels[own]):
        of_it = np.flatnonzero(labels[own] == label)
        turns[of_it] = np.arange(len(of_it))
    return np.sort(own[np.argsort(turns, kind="stable")[:MOST]])


def _encoded(sample: Tensor) -> dict[str, Any]:
    low, high = float(sample.min()), float(sample.max())
    levels = ((sample - low) / max(high - low, 1e-12) * LEVELS).round().to(torch.uint8)
    text = base64.b64encode(levels.contiguous().numpy().tobytes()).decode()
    return {"shape": list(sample.shape), "low": low, "high": high, "x": text}
