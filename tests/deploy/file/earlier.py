"""The models that lie in ``version1/`` as files of format 1; each number of them follows from a formula, not a seed."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ttq_plugin.tasks import get_task

FOLDER = Path(__file__).parent / "version1"


def numbers(n: int, period: int) -> Tensor:
    """n whole numbers from 0 to period - 1 that look random, float32."""
    i = torch.arange(n)
    return ((i * i * i + 7 * i * i + 3 * i) % 1009 % period).float()


def trits(shape: tuple[int, ...], period: int) -> Tensor:
    """Two of ``period`` values are not zero."""
    n = numbers(torch.Size(shape).numel(), period).reshape(shape)
    return 0.375 * (n == 1) - 0.625 * (n == 2)


class Mixed(nn.Module):
    """One tensor of each kind that a packed file knows."""

    def __init__(self) -> None:
        super().__init__()
        self.few = nn.Conv1d(8, 12, 5)
        self.even = nn.Linear(40, 40, bias=False)
        self.many = nn.Linear(64, 64, bias=False)
        self.signs = nn.Linear(48, 40, bias=False)
        self.grid = nn.Linear(40, 40, bias=False)
        self.plain = nn.Linear(9, 6, bias=False)
        self.again = nn.Linear(9, 6, bias=False)
        self.again.weight = self.plain.weight
        self.norm = nn.BatchNorm1d(48)
        with torch.no_grad():
            self.few.weight.copy_(trits((12, 8, 5), 40) * (1 + torch.arange(12)[:, None, None] / 16))
            self.few.bias.copy_(numbers(12, 101) / 128)
            self.even.weight.copy_(trits((40, 40), 3))
            self.many.weight.copy_(trits((64, 64), 11))
            self.signs.weight.copy_(0.25 * numbers(1920, 2).reshape(40, 48) - 0.125)
            self.grid.weight.copy_((numbers(1600, 17).reshape(40, 40) - 8) / 32)
            self.plain.weight.copy_(numbers(54, 89).reshape(6, 9) / 64 - 0.5)
            self.norm.running_mean.copy_(numbers(48, 97) / 128)
            self.norm.num_batches_tracked.fill_(1234)


def digits() -> nn.Module:
    """The network of ``mnist-cnn``."""
    model = get_task("mnist-cnn").model().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(numbers(parameter.numel(), 509).reshape(parameter.shape) / 512 - 0.5)
        for layer, period in ((model.conv1, 3), (model.conv2, 13)):
            layer.weight.copy_(trits(tuple(layer.weight.shape), period))
    return model
