"""`esr-hybrid*` and `ecg-hybrid*`: the signal and its spectrogram, each in its own branch, fused in four ways.

The data and their splits are those of `esr-cnn-transformer` and `ecg-cnn-transformer`; the second input is the picture
that `esr-2dcnn` and `ecg-2dcnn` see. The branches are small convolutional networks, unlike the published ones (a
CNN-Transformer and a 2D CNN of 1.6 million parameters), so that a core trains them in minutes and the whole network
becomes integer firmware, which has no attention between tokens and no softmax.

The names without an ending fuse late: each branch classifies, and a learned attention says for each sample how much
each branch counts. The endings join the branches' features before one classifier.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttq_plugin.tasks.builtin import ecg, esr
from ttq_plugin.tasks.builtin.spectrogram import spectrogram
from ttq_plugin.tasks.samples import Samples, Split
from ttq_plugin.tasks.task import Data, Recipe, Task

WIDTH = 32
"""Features of each branch."""

GUIDANCE = 0.3
"""Weight of each branch's own cross-entropy in the loss."""

FUSIONS = {
    "": "late fusion by attention",
    "-concatenation": "features concatenated",
    "-sum": "features added",
    "-weighted-sum": "features added with learned weights",
}
"""Descriptions by the ending of a task's name."""


def _block(convolution: nn.Module, norm: nn.Module, pool: nn.Module) -> nn.Sequential:
    return nn.Sequential(convolution, norm, nn.ReLU(), pool)


def signal_branch(length: int) -> nn.Sequential:
    """(batch, 1, length) -> (batch, 32): four blocks conv - BatchNorm - ReLU - MaxPool 2, a linear layer, ReLU."""
    sizes = ((1, 16, 7), (16, 24, 7), (24, 32, 5), (32, 48, 5))
    blocks = (
        _block(nn.Conv1d(before, after, k, padding=k // 2), nn.BatchNorm1d(after), nn.MaxPool1d(2))
        for before, after, k in sizes
    )
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(48 * (length // 16), WIDTH), nn.ReLU())


def picture_branch(rows: int, columns: int) -> nn.Sequential:
    """(batch, 1, rows, columns) -> (batch, 32): three blocks as in ``signal_branch`` of two dimensions."""
    blocks = (
        _block(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.MaxPool2d(2))
        for before, after in ((1, 16), (16, 24), (24, 32))
    )
    flat = 32 * (rows // 8) * (columns // 8)
    return nn.Sequential(nn.BatchNorm2d(1), *blocks, nn.Flatten(), nn.Linear(flat, WIDTH), nn.ReLU())


class Late(nn.Module):
    """Each branch classifies, and the sample itself says how much either counts.

    The attention on the signal is sigmoid(a - b), which is the softmax of the branches' scores a and b; that on the
    picture is the rest. The logits are the branches' logits, weighted so.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.of_signal, self.of_picture = nn.Linear(WIDTH, classes), nn.Linear(WIDTH, classes)
        self.score_signal, self.score_picture = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 1)
        self.attention = nn.Sigmoid()

    def forward(self, signal: Tensor, picture: Tensor) -> Tensor:
        """Features of both branches, each (batch, 32) -> logits."""
        attention = self.attention(self.score_signal(signal) - self.score_picture(picture))
        first, second = self.of_signal(signal), self.of_picture(picture)
        logits: Tensor = second + attention * (first - second)
        return logits

    def alone(self, signal: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of each branch."""
        return self.of_signal(signal), self.of_picture(picture)


class Joined(nn.Module):
    """One classifier on the features of both branches: side by side, added, or added with a learned weight each."""

    def __init__(self, classes: int, ending: str) -> None:
        super().__init__()
        self.ending = ending
        self.classify = nn.Linear(2 * WIDTH if ending == "-concatenation" else WIDTH, classes)
        if ending == "-weighted-sum":
            self.weight_signal, self.weight_picture = (nn.Parameter(torch.ones(WIDTH)) for _ in range(2))

    def forward(self, signal: Tensor, picture: Tensor) -> Tensor:
        """Features of both branches, each (batch, 32) -> logits."""
        if self.ending == "-concatenation":
            joined = torch.cat([signal, picture], dim=1)
        elif self.ending == "-weighted-sum":
            joined = signal * self.weight_signal + picture * self.weight_picture
        else:
            joined = signal + picture
        logits: Tensor = self.classify(joined)
        return logits

    def alone(self, signal: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Logits with the other branch's features at zero, so that the auxiliary loss needs no extra classifiers."""
        return self(signal, torch.zeros_like(picture)), self(torch.zeros_like(signal), picture)


class Hybrid(nn.Module):
    """A branch for the signal, a branch for its spectrogram, and their fusion.

    In training, the output is a dict of the ``logits`` and of each branch's own, ``signal`` and ``picture``, which
    guide it; in evaluation it is the logits alone.
    """

    def __init__(self, length: int, rows: int, columns: int, classes: int, ending: str = "") -> None:
        super().__init__()
        self.signal = signal_branch(length)
        self.picture = picture_branch(rows, columns)
        self.dropout = nn.Dropout(0.2)
        self.fusion: Late | Joined = Joined(classes, ending) if ending else Late(classes)

    def forward(self, signal: Tensor, picture: Tensor) -> Tensor | dict[str, Tensor]:
        """Signals (batch, 1, length) and pictures (batch, 1, rows, columns) -> logits."""
        features = self.dropout(self.signal(signal)), self.dropout(self.picture(picture))
        logits: Tensor = self.fusion(*features)
        if not self.training:
            return logits
        first, second = self.fusion.alone(*features)
        return {"logits": logits, "signal": first, "picture": second}


def guided(outputs: Tensor | dict[str, Tensor], targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of the fused logits, and 0.3 times each branch's own where a model in training gives them."""
    if isinstance(outputs, Tensor):
        return F.cross_entropy(outputs, targets, weight)
    losses = {name: F.cross_entropy(logits, targets, weight) for name, logits in outputs.items()}
    return losses["logits"] + GUIDANCE * (losses["signal"] + losses["picture"])


def both(samples: Samples) -> Split:
    """Signals and their spectrograms as a model's two arguments.

    Args:
        samples: Signals in memory, each scaled to [0, 1], shape (n, 1, length).

    Returns:
        The same samples with x a tuple of signals and pictures (n, 1, 32, frames).
    """
    assert isinstance(samples, Split)
    parts = samples.x[:, 0].split(4096)  # the transforms of 109 000 beats at once would take gigabytes
    pictures = torch.cat([torch.from_numpy(spectrogram(part.double().numpy())) for part in parts])
    return replace(samples, x=(samples.x, pictures.unsqueeze(1)))


def load(source: Path | None, seed: int, *, single: Task) -> Data:
    """The data of a task on signals with their spectrograms.

    Args:
        source: The user's file or folder, or None for the task's own.
        seed: Random seed of the splits.
        single: The task.

    Returns:
        Its splits, with two inputs.
    """
    data = single.load(source, seed)
    return Data(both(data.train), both(data.validation), both(data.test))


SETS = {
    "esr": (esr.TASKS["esr-cnn-transformer"], 2, 37, "epileptic seizures in EEG, 2 classes, split by recording"),
    "ecg": (ecg.TASKS["ecg-cnn-transformer"], 5, 39, "heart beats, five AAMI classes (MIT-BIH)"),
}
"""The task on signals alone, its classes, its pictures' columns, words for people."""


def _task(kind: str, ending: str) -> Task:
    single, classes, columns, words = SETS[kind]
    shape = tuple(size for size in single.shape if isinstance(size, int))
    return Task(
        name=f"{kind}-hybrid{ending}",
        description=f"{words}; signals and spectrograms in two branches, {FUSIONS[ending]}",
        load=partial(load, single=single),
        model=partial(Hybrid, shape[-1], 32, columns, classes, ending),
        loss=guided,
        recipe=Recipe(epochs=20, lr=2e-3, batch_size=64, weight_decay=1e-2, optimizer="adamw", schedule="one-cycle"),
        balanced=True,
        shape=(shape, (1, 32, columns)),
    )


TASKS = {task.name: task for task in (_task(*parts) for parts in product(SETS, FUSIONS))}
"""Their recipes are sensible guesses, not tuned."""
