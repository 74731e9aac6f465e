"""Modules that strangers write: one task of each kind on real data, as text, for tests to put outside the package."""

from __future__ import annotations

COMMON = """
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from ttq_plugin.tasks.task import Data, Recipe, Split, Task


def split(x, y):
    places = np.random.RandomState(0).permutation(len(y))
    parts = np.split(places, [int(0.6 * len(y)), int(0.8 * len(y))])
    return Data(*(Split(x[part], y[part]) for part in parts))


def standard(x):
    return ((x - x.mean(0)) / x.std(0)).astype("float32")
"""

BINARY = """
from sklearn.datasets import load_breast_cancer


def load(source, seed):
    x, y = load_breast_cancer(return_X_y=True)
    return split(standard(x), y.astype("float32"))


def model():
    return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))


TASK = Task("cancer", "malignant or benign", load, model, F.binary_cross_entropy_with_logits,
            Recipe(epochs=10, lr=0.01), metric="auroc", classes=("malignant", "benign"))
"""

MULTICLASS = """
from sklearn.datasets import load_digits


def load(source, seed):
    x, y = load_digits(return_X_y=True)
    return split(x.reshape(-1, 1, 8, 8).astype("float32") / 16, y)


def model():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


TASK = Task("digits", "which digit", load, model, F.cross_entropy, Recipe(epochs=6, lr=0.01), metric="macro_f1")
"""

MULTILABEL = """
from sklearn.datasets import load_digits


def load(source, seed):
    x, y = load_digits(return_X_y=True)
    labels = np.stack([y % 2 == 1, np.isin(y, (2, 3, 5, 7)), y > 4], 1).astype("float32")
    return split(x.astype("float32") / 16, labels)


def model():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))


TASK = Task("properties", "odd, prime, large", load, model, F.binary_cross_entropy_with_logits,
            Recipe(epochs=8, lr=0.01), metric="average_precision", classes=("odd", "prime", "large"))
"""

REGRESSION = """
from sklearn.datasets import load_diabetes


def load(source, seed):
    x, y = load_diabetes(return_X_y=True)
    return split(standard(x), (y[:, None] / 100).astype("float32"))


def model():
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1))


TASK = Task("diabetes", "progress after a year", load, model, F.mse_loss, Recipe(epochs=15, lr=0.01), metric="rmse")
"""

SEGMENTATION = """
from sklearn.datasets import load_digits


def load(source, seed):
    images = load_digits().images[:600].astype("float32")[:, None] / 16
    noise = np.random.RandomState(1).randn(*images.shape).astype("float32")
    return split(images + 0.2 * noise, (images[:, 0] > 0.4).astype("int64"))


def model():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))


TASK = Task("stroke", "stroke of a noisy digit", load, model, F.cross_entropy, Recipe(epochs=6, lr=0.01), metric="iou")
"""

MODULES = {
    "binary": COMMON + BINARY,
    "multiclass": COMMON + MULTICLASS,
    "multilabel": COMMON + MULTILABEL,
    "regression": COMMON + REGRESSION,
    "segmentation": COMMON + SEGMENTATION,
}

HEARTS = (
    COMMON
    + '''

def load(source, seed):
    """Beats of three shapes; of a hundred beats, ninety are normal and four are rare."""
    r = np.random.RandomState(0)
    y = np.concatenate([np.zeros(900), np.ones(60), np.full(40, 2)]).astype("int64")
    time = np.linspace(-1, 1, 60)
    shapes = np.stack([np.exp(-(time * 12) ** 2), np.exp(-(time * 4) ** 2), np.exp(-((time - 0.03) * 11) ** 2)])
    return split((shapes[y] + 0.08 * r.randn(len(y), 60)).astype("float32")[:, None], y)


def model():
    return nn.Sequential(nn.Conv1d(1, 16, 7, stride=2), nn.ReLU(), nn.Conv1d(16, 16, 7, stride=2), nn.ReLU(),
                         nn.Flatten(), nn.Linear(176, 3))


TASK = Task("hearts", "beats, most of them normal", load, model, F.cross_entropy, Recipe(epochs=25, lr=0.01),
            metric="mcc", classes=("normal", "wide", "late"))
'''
)
