"""A regression of one's own, as a user's module: scikit-learn's diabetes data, scored by RMSE, trained in a second."""

import os
from pathlib import Path

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import Dataset, get_worker_info

from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.tasks.task import Data, Recipe, Split, Task


def load(source, seed):
    x, y = load_diabetes(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x = torch.tensor(x, dtype=torch.float32)[order] * 20
    y = torch.tensor(y, dtype=torch.float32)[order, None] / 100
    return Data(*(Split(x[rows], y[rows]) for rows in (slice(242), slice(242, 342), slice(342, None))))


def model():
    return nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 1))


def worst(outputs, targets):
    return float((outputs - targets).abs().max())


RECIPE = Recipe(epochs=9, lr=3e-3, batch_size=16)
TASK = Task("diabetes", "progression of a disease", load, model, nn.functional.mse_loss, RECIPE, metric="rmse")
WORST = Task("worst", "the worst of all errors", load, model, nn.functional.mse_loss, RECIPE,
             metric=Metric("worst_error", worst, higher=False, title="worst error"))  # fmt: skip


class Pairs(Dataset):
    """The training samples one by one; while the file HOUSE_BREAKS is there, the next read by another process fails."""

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, place):
        flag = Path(os.environ.get("HOUSE_BREAKS", "none"))
        if get_worker_info() is not None and flag.exists():
            flag.unlink()
            raise OSError(f"sample {place} cannot be read")
        return self.split.x[place], self.split.y[place]


def streamed(source, seed):
    data = load(source, seed)
    return Data(Pairs(data.train), data.validation, data.test, workers=1)


CALLS = []
FIRST = []


def sometimes(outputs, targets):
    """From the call that FIRST names on, every other model has no score."""
    CALLS.append(len(CALLS))
    alas = FIRST and CALLS[-1] >= FIRST[0] and (CALLS[-1] - FIRST[0]) % 2 == 0
    return float("nan") if alas else worst(outputs, targets)


STREAM = Task(
    "stream", "the same, read by another process", streamed, model, nn.functional.mse_loss, RECIPE, metric="rmse"
)
NANS = Task("nans", "scored by chance", load, model, nn.functional.mse_loss, RECIPE,
            metric=Metric("sometimes", sometimes, higher=False))  # fmt: skip
