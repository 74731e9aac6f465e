"""Run a model without changing it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode and restore everything on leaving, also after an error.

    Restored: the training flag of every submodule, the buffers (which there are, and their values), the global random
    state, and torch's switch for fused attention, which is off inside.

    Args:
        model: Any module; flags are set directly, because a user's own `train()` may do more than set them.

    Yields:
        Nothing; the model is in evaluation mode inside.
    """
    flags = [(module, module.training) for module in model.modules()]
    buffers = [(module, dict(module._buffers.items())) for module in model.modules()]
    values = {b: b.detach().clone() for _, named in buffers for b in named.values() if b is not None}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), unfused_attention():
        try:
            for module, _ in flags:
                module.training = False
            yield
        finally:
            for module, training in flags:
                module.training = training
            _restore(buffers, values)


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Turn off the fused evaluation path of `nn.TransformerEncoderLayer` and `nn.MultiheadAttention`.

    That path reads weights without calling the layers that hold them, and is one operation that graphs do not have.

    Yields:
        Nothing; afterwards torch's switch is as it was.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _restore(buffers: list[tuple[nn.Module, dict[str, Tensor | None]]], values: dict[Tensor, Tensor]) -> None:
    """Give modules their buffers back, writing values only where they changed, and take away new ones."""
    for module, named in buffers:
        for name in [name for name in module._buffers if name not in named]:
            del module._buffers[name]
        for name, buffer in named.items():
            module._buffers[name] = buffer
    for buffer, before in values.items():
        if buffer.shape != before.shape:
            buffer.data = before
        elif not torch.equal(buffer, before):
            with torch.no_grad():
                buffer.copy_(before)
