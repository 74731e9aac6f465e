"""Tasks of a user's own, small enough to train in a moment; importable by spawned workers."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.task import Data, Recipe, Split, Task


def load(source: Path | None, seed: int) -> Data:
    """Three blobs in eight dimensions; a source that is a missing file is made, and kills the worker that makes it."""
    if source is not None and not source.exists():
        source.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(3, 8, generator=generator)
    y = torch.arange(180) // 60
    x = centres[y] + torch.randn(180, 8, generator=generator)
    return Data(*(Split(x[i::3], y[i::3]) for i in range(3)), simulated=True)


def worn(source: Path | None, seed: int) -> Data:
    """The same blobs, worn by nine people; each seed tests three others, whose samples have names of their own."""
    data = load(None, 0)
    x, y = torch.cat([data.train.x, data.validation.x, data.test.x]), torch.cat([data.train.y] * 3)
    people = np.array([f"person {(number + 3 * seed) % 9}" for number in range(180)])
    at = {name: np.isin(people, [f"person {3 * k + i}" for i in range(3)]) for k, name in enumerate("abc")}
    return Data(*(Split(x[rows], y[rows], people[rows]) for rows in at.values()), simulated=True)


def refuse(source: Path | None, seed: int) -> Data:
    """No data."""
    raise InputError("there are no recordings here.")


def model() -> nn.Module:
    """The layers are named as the MNIST CNN's."""
    net = nn.Sequential()
    net.add_module("conv1", nn.Linear(8, 16))
    net.add_module("relu", nn.ReLU())
    net.add_module("conv2", nn.Linear(16, 3))
    return net


TASK = Task("tiny", "three blobs", load, model, F.cross_entropy, Recipe(epochs=3, lr=1e-2), shape=(8,))
WORN = replace(TASK, load=worn, recipe=Recipe(epochs=20, lr=2e-2), classes=("left", "right", "still"))
REFUSING = replace(TASK, load=refuse)
NOT_A_TASK = 3
