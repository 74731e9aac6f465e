"""A task of one's own whose model has two layers of any names; ``NAMES`` holds them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ttq_plugin.tasks.task import Data, Recipe, Split, Task

NAMES = ["first", "second"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        setattr(self, NAMES[0], nn.Linear(6, 8))
        setattr(self, NAMES[1], nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.children()
        return second(first(x).relu())


def load(source: object, seed: int) -> Data:
    x = torch.randn(120, 6, generator=torch.Generator().manual_seed(1))
    y = x[:, :3].argmax(1)
    return Data(*(Split(x[i::3], y[i::3]) for i in range(3)))


TASK = Task(
    "tests.commands.own_layers:TASK", "layers of any name", load, Net, F.cross_entropy, Recipe(epochs=1, lr=1e-2)
)
