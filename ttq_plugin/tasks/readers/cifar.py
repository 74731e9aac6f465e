"""Reading CIFAR-10 in its binary version, or images of that size in folders by class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.support.limits import check_bytes, check_size

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

SIDE = 32
"""Pixels."""

PIXELS = 3 * SIDE * SIDE

RECORD = 1 + PIXELS
"""Bytes of an image with its label in the binary version."""

LARGEST = 1 << 30
"""Bytes of a binary file; CIFAR-10's have 31 million."""

LARGEST_IMAGE = 1 << 22
"""Bytes of one image file."""

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}

FORM = (
    "a folder with CIFAR-10's binary version (data_batch_1.bin and so on, and test_batch.bin) is needed, or one with "
    f"the folders train and test, each with a folder for each class ({', '.join(CLASSES)}) of {SIDE}x{SIDE} images"
)


@dataclass(frozen=True)
class Images:
    """Images, n of them.

    Attributes:
        pixels: uint8, shape (n, 3, 32, 32): red, green and blue.
        labels: int64, shape (n,): places in ``CLASSES``.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


def read_images(folder: Path) -> tuple[Images, Images]:
    """Read and check a folder in either form.

    Args:
        folder: Folder with the binary files, or with the folders train and test.

    Returns:
        The images to train on and those to test on.

    Raises:
        InputError: If neither form is there, a file is damaged, cut off or of another size, or a class is missing; the
            file and, in a binary one, the record is named.
    """
    binaries = sorted(folder.glob("data_batch_*.bin"))
    if binaries or (folder / "test_batch.bin").exists():
        if not binaries or not (folder / "test_batch.bin").is_file():
            missing = "test_batch.bin" if binaries else "data_batch_1.bin"
            raise InputError(f"{folder / missing} does not exist; {FORM}.")
        parts = [_binary(path) for path in binaries]
        joined = (np.concatenate([getattr(part, name) for part in parts]) for name in ("pixels", "labels"))
        found = Images(*joined), _binary(folder / "test_batch.bin")
    elif (folder / "train").is_dir() and (folder / "test").is_dir():
        found = _by_class(folder / "train"), _by_class(folder / "test")
    else:
        raise InputError(f"{folder} holds neither form; {FORM}.")
    for words, part in zip(("train", "test"), found, strict=True):
        counts = np.bincount(part.labels, minlength=len(CLASSES))
        if not counts.min():
            raise InputError(f"{folder}: no image to {words} on is of class {CLASSES[counts.argmin()]}; {FORM}.")
    return found


def _binary(path: Path) -> Images:
    """Records of a label and the red, green and blue pixels, row by row."""
    check_size(path, LARGEST, FORM)
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); {FORM}.") from None
    if not len(data) or len(data) % RECORD:
        whole, rest = divmod(len(data), RECORD)
        raise InputError(
            f"{path} must hold whole records of {RECORD} bytes, but record {whole} ends after {rest} of them; {FORM}."
        )
    records = data.reshape(-1, RECORD)
    if (wrong := records[:, 0] >= len(CLASSES)).any():
        row = int(wrong.argmax())
        raise InputError(f"{path}: the label of record {row} is {records[row, 0]}, not 0 to 9; {FORM}.")
    return Images(records[:, 1:].reshape(-1, 3, SIDE, SIDE), records[:, 0].astype(np.int64))


def _by_class(folder: Path) -> Images:
    if strange := sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in CLASSES):
        raise InputError(f"{strange[0]} is not a class of CIFAR-10; {FORM}.")
    found = [
        (path, label)
        for label, name in enumerate(CLASSES)
        for path in sorted((folder / name).glob("*"))
        if path.suffix.lower() in ENDINGS
    ]
    check_bytes(f"{folder}: its images", (len(found), PIXELS), 1, FORM)
    pixels = [_image(path) for path, _ in found]
    labels = np.array([label for _, label in found], dtype=np.int64)
    return Images(np.stack(pixels) if pixels else np.empty((0, 3, SIDE, SIDE), np.uint8), labels)


def _image(path: Path) -> NDArray[np.uint8]:
    """Red, green and blue of one file, shape (3, 32, 32)."""
    from PIL import Image

    check_size(path, LARGEST_IMAGE, FORM)
    try:
        with Image.open(path, formats=("PNG", "JPEG", "BMP", "WEBP")) as image:
            size: Any = image.size
            if size != (SIDE, SIDE):  # before a pixel is read
                raise InputError(f"{path} has {size[0]}x{size[1]} pixels, not {SIDE}x{SIDE}; {FORM}.")
            return np.asarray(image.convert("RGB"), dtype=np.uint8).transpose(2, 0, 1)
    except InputError:
        raise
    except Exception as error:  # whatever Pillow meets in a damaged file
        raise InputError(f"{path} is damaged or not an image ({error}); {FORM}.") from None
