"""Convolutional networks of four blocks: the papers' one for spectrograms, and a small one for signals."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class CNN2D(nn.Module):
    """Four blocks conv 3x3 - BatchNorm - LeakyReLU - MaxPool 2 of 64 to 512 filters, one FC, dropout after it.

    Input (batch, channels, rows, columns), output (batch, classes) logits. 1 555 842 parameters for the ESR pictures,
    1 681 923 for the HITS ones: channels 3, 224x96, 3 classes (Vindas et al. 2024).
    """

    def __init__(
        self, channels: int = 1, rows: int = 32, columns: int = 37, classes: int = 2, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 128, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(128)
        self.conv3 = nn.Conv2d(128, 256, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(256)
        self.conv4 = nn.Conv2d(256, 512, 3, padding=1)
        self.norm4 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * (rows // 16) * (columns // 16), classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        x = F.max_pool2d(F.leaky_relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.leaky_relu(self.norm2(self.conv2(x))), 2)
        x = F.max_pool2d(F.leaky_relu(self.norm3(self.conv3(x))), 2)
        x = F.max_pool2d(F.leaky_relu(self.norm4(self.conv4(x))), 2)
        logits: Tensor = self.dropout(self.fc(x.flatten(1)))
        return logits


class CNN1D(nn.Module):
    """Four blocks conv - BatchNorm - ReLU - MaxPool 2 of 16 to 48 filters of lengths 7, 7, 5, 5, dropout, one FC.

    Input (batch, channels, samples), output (batch, classes) logits.
    """

    def __init__(self, channels: int, samples: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, 16, 7, padding=3)
        self.norm1 = nn.BatchNorm1d(16)
        self.conv2 = nn.Conv1d(16, 24, 7, padding=3)
        self.norm2 = nn.BatchNorm1d(24)
        self.conv3 = nn.Conv1d(24, 32, 5, padding=2)
        self.norm3 = nn.BatchNorm1d(32)
        self.conv4 = nn.Conv1d(32, 48, 5, padding=2)
        self.norm4 = nn.BatchNorm1d(48)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(48 * (samples // 16), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        x = F.max_pool1d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool1d(F.relu(self.norm2(self.conv2(x))), 2)
        x = F.max_pool1d(F.relu(self.norm3(self.conv3(x))), 2)
        x = F.max_pool1d(F.relu(self.norm4(self.conv4(x))), 2)
        logits: Tensor = self.fc(self.dropout(x.flatten(1)))
        return logits
