"""Weights on disk: safetensors, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_plugin.errors import InputError

if TYPE_CHECKING:
    from torch import nn


def write_whole(path: Path, write: Callable[[str], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in its place; a crash leaves the old one.

    Args:
        path: the file to be; its folder is made if needed.
        write: called with the temporary file's name.

    Raises:
        InputError: if the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        os.close(handle)
        try:
            write(temporary)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); choose another place.") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_whole(path, lambda temporary: Path(temporary).write_text(text))


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the model's state dict as safetensors, whole or not at all.

    Args:
        model: any module; tensors go to the CPU in the file.
        path: a ``.safetensors`` file; its folder is made if needed.
        metadata: strings to keep in the file's header.
    """
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    write_whole(path, lambda temporary: save_file(tensors, temporary, dict(metadata or {})))


def load_weights(model: nn.Module, path: Path) -> dict[str, str]:
    """Fill the model from a file that ``save_weights`` wrote.

    Args:
        model: a module of the architecture that was saved; filled in place.
        path: the ``.safetensors`` file.

    Returns:
        The file's metadata.

    Raises:
        InputError: if the file is missing, damaged, or of another architecture; the model is then unchanged.
    """
    with _opened(path) as file:
        metadata = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    own = {name: value.shape for name, value in model.state_dict().items()}
    if {name: value.shape for name, value in tensors.items()} != own:
        raise InputError(f"{path} holds weights of another architecture than {type(model).__name__}.")
    model.load_state_dict(tensors)
    return metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The strings in a safetensors file's header.

    Args:
        path: the file; its tensors are not read.

    Returns:
        The metadata, empty if there is none.

    Raises:
        InputError: if the file is missing or damaged.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The open safetensors file; what is wrong with it is an InputError."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"the weights {path} do not exist.")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or not a safetensors file ({error}).") from None
