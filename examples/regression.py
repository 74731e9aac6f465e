"""A regression net from Task to packed file: diabetes, by a metric of one's own, of which less is better."""

from pathlib import Path

import numpy as np
import torch.nn.functional as F
from sklearn.datasets import load_diabetes
from torch import nn

from ttq_plugin import compress, load_packed, save_packed, train
from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.tasks.task import Data, Recipe, Split, Task


def load(source, seed):
    x, y = load_diabetes(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0)).astype("float32")
    y = (y[:, None] / 100).astype("float32")  # the outputs' shape: (n,) would be compared with every output
    parts = np.split(np.random.RandomState(seed).permutation(len(y)), [280, 360])
    return Data(*(Split(x[part], y[part]) for part in parts))


def model():
    return nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))


def median_error(outputs, targets):
    return 100 * (outputs - targets).abs().median()


TASK = Task(
    "diabetes", "progress after a year", load, model, F.mse_loss, Recipe(epochs=20, lr=1e-2),
    metric=Metric("median_error", median_error, higher=False),
)  # fmt: skip

if __name__ == "__main__":
    trained = train(TASK, curvature=True, show=False)
    print(f"full precision median error {trained.score:.1f}")
    outcome = compress(trained, "ttq", t=0.05, epochs=20, lr=3e-3, show=False)
    print(f"ternary        median error {outcome.metrics['median_error']:.1f}")
    save_packed(outcome.model, "diabetes.safetensors", method="ttq")
    loaded = load_packed("diabetes.safetensors", model=model()).eval()
    print(f"packed {Path('diabetes.safetensors').stat().st_size} bytes, was {outcome.report.bits_fp32 // 8}")
    print(f"layer {outcome.layers[0]}: values {loaded.get_submodule(outcome.layers[0]).weight.unique().tolist()}")
