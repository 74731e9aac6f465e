"""Weights as safetensors files with a digest: written completely or not at all, and fully verified when read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ttq_plugin.errors import InputError
from ttq_plugin.support.digests import KEY, NOTHING, OWN_ENTRY, read_header, seal, verify
from ttq_plugin.support.files import REMEDY, write_bytes
from ttq_plugin.support.names import check_module_names

if TYPE_CHECKING:
    from torch import Tensor, nn


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the model's state dict as safetensors with a digest, whole or not at all; always the same bytes.

    Args:
        model: Any module; tensors go to the CPU in the file, shared ones under each of their names.
        path: A ``.safetensors`` file; its folder is made if needed.
        metadata: Strings to keep in the file's header.

    Raises:
        InputError: If the state dict holds what safetensors cannot keep, or the place cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save

    entries = {KEY: NOTHING, **(metadata or {})}
    if entries[KEY] != NOTHING:
        raise InputError(f"metadata must not have an entry {KEY!r}, which the file's own digest needs; rename it.")
    check_module_names(model)
    state = model.state_dict()
    if others := [name for name, value in state.items() if not hasattr(value, "untyped_storage")]:
        raise InputError(f"a safetensors file holds tensors only, got {type(state[others[0]]).__name__} {others[0]!r}.")
    try:
        data = bytearray(save({name: _plain(value) for name, value in state.items()}))
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} cannot be written: safetensors cannot keep these weights ({error}).") from None
    # safetensors writes several entries in an order of its own, another one in each process.
    end = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(entries.items())), **json.loads(data[8:end])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    data[:end] = len(text).to_bytes(8, "little") + text
    seal(data)
    write_bytes(path, data)


def load_weights(model: nn.Module, path: Path, *, unsigned: bool = False) -> dict[str, str]:
    """Load the model from a file that ``save_weights`` wrote, after every byte of it was verified.

    Args:
        model: A module of the architecture that was saved; filled in place.
        path: The ``.safetensors`` file.
        unsigned: Whether a file without a digest is taken too, such as one that another program wrote. Damage to its
            numbers cannot be detected.

    Returns:
        The file's metadata.

    Raises:
        InputError: If the file is missing, damaged, without a digest that it needs, or of another architecture; the
            model is then unchanged.
    """
    from safetensors import SafetensorError, safe_open

    check_module_names(model)
    header = _weights_header(path)
    metadata = _metadata(path, header)
    own = model.state_dict()
    if path.stat().st_size > 2 * len(header) + 8 + sum(value.numel() * 8 for value in own.values()):
        raise InputError(_another_architecture(path, model))  # before a file without end is read to its end
    if metadata.pop(KEY, None) is not None or OWN_ENTRY.search(header):
        verify(path, header, OWN_ENTRY, REMEDY)
    elif not unsigned:
        raise InputError(
            f"{path} has no digest, so damage to it could not be detected; it is damaged, or was not written by this "
            f"version or `save_weights`: {REMEDY}."
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or not a safetensors file ({error}).") from None
    if _shapes(tensors) != _shapes(own):
        raise InputError(_another_architecture(path, model))
    _check_types(path, tensors, own, unsigned)
    model.load_state_dict(tensors)
    return metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The strings in a safetensors file's header; its tensors are not read, and nothing is checked yet.

    Args:
        path: The file.

    Returns:
        The metadata without the digest, empty if there is none.

    Raises:
        InputError: If the file is missing or damaged.
    """
    metadata = _metadata(path, _weights_header(path))
    metadata.pop(KEY, None)
    return metadata


def _plain(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().clone()


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _another_architecture(path: Path, model: nn.Module) -> str:
    return f"{path} holds weights of another architecture than {type(model).__name__}."


def _check_types(path: Path, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], unsigned: bool) -> None:
    """Raises InputError where torch would convert numbers silently; a user's floats may have another precision."""
    for name, value in tensors.items():
        floats = unsigned and value.is_floating_point() and own[name].is_floating_point()
        if value.dtype != own[name].dtype and not floats:
            raise InputError(
                f"{path} must hold {name!r} as {own[name].dtype}, as the model does, got {value.dtype}; convert it."
            )


def _weights_header(path: Path) -> bytes:
    if not path.is_file():
        what = "are no file" if path.exists() else "do not exist"
        raise InputError(f"the weights {path} {what}.")
    return read_header(path, "safetensors file")


def _metadata(path: Path, header: bytes) -> dict[str, str]:
    try:
        metadata = json.loads(header).get("__metadata__", {})
        if isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values()):
            return metadata
    except (ValueError, AttributeError, RecursionError):
        pass
    raise InputError(f"{path} is damaged or not a safetensors file (its header is not one); {REMEDY}.")
