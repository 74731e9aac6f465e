"""Chooses what a packed file stores of a model, and in which order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ttq_plugin.deploy.file import container, gathered
from ttq_plugin.deploy.file.entries import TABLE, WORDS, Identity, Stored, data_of, entry_of, layouts, make
from ttq_plugin.errors import InputError


def stored(model: nn.Module, rest: str) -> tuple[list[Stored], bytes]:
    """What is kept of each tensor, of those that share their memory once.

    Args:
        model: A plain module.
        rest: How tensors that cannot be packed are kept, one of ``REST``.

    Returns:
        In the order of the state dict; and the hash of the decoded values.

    Raises:
        InputError: If a tensor cannot be stored.
    """
    known = layouts(model)
    found: list[Stored] = []
    identity = Identity()
    first: dict[tuple[Any, ...], str] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor) or value.dtype not in WORDS:
            what = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"a packed file holds plain tensors, got {name!r} of {what}; convert the model first.")
        if TABLE in name:
            raise InputError(f"a tensor's name must not contain {TABLE!r}, got {name!r}; rename it.")
        same = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and same in first:
            found.append(Stored([name, "same", first[same]], {}))
            continue
        first[same] = name
        found.append(make(name, value.detach().cpu().contiguous(), known.get(name), rest, identity))
    return found, identity.digest()


def write(path: Path, directory: dict[str, Any], tensors: list[Stored], identity: bytes) -> None:
    """Write the file: streams of small vectors, then all other parts in the order of the state dict.

    Args:
        path: The file to be.
        directory: What it says about itself.
        tensors: What ``stored`` returned.
        identity: The hash that ``stored`` returned.

    Raises:
        InputError: If the place cannot be written.
    """  # noqa: DOC502 - raised by what it calls
    small: dict[str, tuple[int, Tensor]] = {}
    alone: list[memoryview] = []
    for tensor in tensors:
        for part in entry_of(tensor.line)[2]:
            if part.small:
                small[part.name] = part.width, tensor.parts[part.name]
            else:
                alone.append(data_of(tensor.parts[part.name]))
    names = gathered.blocks((name, value.nbytes) for name, (_, value) in small.items())
    streams = [gathered.encode([(small[n][0], data_of(small[n][1]).tobytes()) for n in block]) for block in names]
    directory = directory | {"tensors": [tensor.line for tensor in tensors]}
    directory |= {"gathered": [len(stream) for stream in streams]} if streams else {}
    container.write(path, directory, [*(memoryview(stream) for stream in streams), *alone], identity)
