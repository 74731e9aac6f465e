"""Residual networks for images of 32x32 pixels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions 3x3 with BatchNorm, added to the input (He et al. 2016).

    Where the block halves the picture, the input goes through a convolution 1x1 of the same stride, as in MLPerf Tiny.
    """

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(before, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, before, side, side) -> (batch, width, side / stride, side / stride)."""
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))


class ResNet(nn.Module):
    """A convolution 3x3 of 16 channels, three stages of 16, 32 and 64 channels, global mean, FC 64->10.

    Input (batch, 3, 32, 32), output (batch, 10) logits. With one block a stage it is MLPerf Tiny's ResNet-8 (Banbury et
    al. 2021), 77 946 parameters; with three, ResNet-20.
    """

    def __init__(self, blocks: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        widths = (16, 16, 32, 64)
        self.stages = nn.Sequential(
            *(
                Block(widths[stage] if block == 0 else width, width, 2 if stage > 0 and block == 0 else 1)
                for stage, width in enumerate(widths[1:])
                for block in range(blocks)
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        x = self.stages(F.relu(self.norm(self.conv(x))))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits
