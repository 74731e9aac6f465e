"""Stores inputs of any nesting in a file for a process that measures a model, as safetensors and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ttq_plugin.errors import InputError
from ttq_plugin.support.inputs import tensors

FORM = "form"
"""The header's entry that describes the nesting."""

PLAIN = (str, int, float, bool, type(None))


def write_example(inputs: Any, path: Path) -> None:
    """Write inputs of a model.

    Args:
        inputs: Tensors in tuples, lists and dicts with words as keys.
        path: The file.

    Raises:
        InputError: If they hold anything else, such as a named tuple, which only the user's code can make again.
    """
    from safetensors.torch import save_file

    form = json.dumps(_form(inputs, iter(range(len(tensors(inputs))))))
    found = {str(place): tensor.contiguous().clone() for place, tensor in enumerate(tensors(inputs))}
    save_file(found, path, {FORM: form})


def read_example(path: Path) -> Any:
    """Read what ``write_example`` wrote.

    Args:
        path: The file.

    Returns:
        The inputs.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return _made(json.loads(file.metadata()[FORM]), found)


def _form(tree: Any, places: Any) -> Any:
    if isinstance(tree, Tensor):
        return {"tensor": str(next(places))}
    if type(tree) in (tuple, list):
        return {type(tree).__name__: [_form(part, places) for part in tree]}
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        return {"dict": [[key, _form(part, places)] for key, part in tree.items()]}
    if type(tree) in PLAIN:
        return {"plain": tree}
    raise InputError(f"inputs can be written as tensors in tuples, lists and dicts, got {type(tree).__name__}.")


def _made(form: Any, found: dict[str, Tensor]) -> Any:
    [(kind, value)] = form.items()
    if kind == "tensor":
        return found[value]
    if kind == "plain":
        return value
    if kind == "dict":
        return {key: _made(part, found) for key, part in value}
    parts = [_made(part, found) for part in value]
    return tuple(parts) if kind == "tuple" else parts
