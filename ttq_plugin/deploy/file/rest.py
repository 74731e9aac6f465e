"""How a packed file stores tensors that are not ternary: exactly, as float16, or as int8."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ttq_plugin.deploy.file.entropy import Damaged
from ttq_plugin.errors import InputError

REST = ("exact", "float16", "int8")


def shrink(name: str, value: Tensor, rest: str) -> tuple[dict[str, Any], Tensor, Tensor | None]:
    """Store one tensor.

    Args:
        name: Name of the tensor, for the error message.
        value: Any tensor; whole numbers are always kept exactly.
        rest: One of ``REST``.

    Returns:
        The start of its entry, what is stored, and its scales (channels,) in float32, or None.

    Raises:
        InputError: If its values do not fit float16.
    """
    wide = value.is_floating_point() and value.element_size() > 2
    if rest == "float16" and wide:
        half = value.half()
        if bool((torch.isfinite(value) & ~torch.isfinite(half)).any()):
            raise InputError(
                f"rest=float16 holds numbers up to 65504, got {value.abs().max():.3g} in {name}; use exact."
            )
        return {"as": "float16"}, half, None
    if rest == "int8" and wide and value.dim() >= 2 and bool(torch.isfinite(value).all()):
        peak = value.flatten(1).abs().amax(1).float()
        scales = torch.where(peak > 0, peak / 127, 1)
        codes = (value / _along(scales, value)).round().clamp(-127, 127).to(torch.int8)
        return {"as": "int8"}, codes, scales
    return {"as": "raw"}, value, None


def restore(how: str, stored: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The tensor again.

    Args:
        how: ``raw``, ``float16`` or ``int8``.
        stored: What ``shrink`` returned.
        scales: The scales that ``shrink`` returned.
        dtype: The tensor's.

    Returns:
        The tensor.

    Raises:
        Damaged: If these do not fit together.
    """
    if how == "int8" and scales is not None and stored.dtype == torch.int8 and scales.shape == stored.shape[:1]:
        return (stored.float() * _along(scales, stored)).to(dtype)
    if how == "float16" and scales is None and stored.dtype == torch.float16:
        return stored.to(dtype)
    if how == "raw" and scales is None:
        return stored
    raise Damaged(f"no {how!r} of {stored.dtype}")


def _along(scales: Tensor, value: Tensor) -> Tensor:
    """The scales as a factor of each row of ``value``."""
    return scales.reshape(-1, *[1] * (value.dim() - 1))
