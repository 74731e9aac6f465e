"""Ternary and binary weights: reads the codes from their values."""

from dataclasses import dataclass

import torch
from torch import Tensor

Kind = str
"""`float`, `ternary`, `binary`, or the width of an integer grid: `int2` to `int16`."""


@dataclass(frozen=True)
class Codes:
    """The codes of one layer's weight.

    Attributes:
        values: int8, -1, 0 or +1, the shape of the weight; on an integer grid the multiples of its step.
        kind: `ternary`, `binary` (no zero, and both signs share one scale), or an integer grid's.
        scales: 32-bit scales stored: ternary 2, binary and integer 1, a layer, a part of it or an output channel.
        smallest_group: Weights of the smallest group that shares scales (the layer, one part or one channel).
    """

    values: Tensor
    kind: Kind
    scales: int
    smallest_group: int

    @property
    def nonzeros(self) -> int:
        """Weights that are not zero."""
        return int(torch.count_nonzero(self.values))


def codes_of(weight: Tensor, dim: int | None = 0, parts: int = 1) -> Codes | None:
    """Read the codes of a ternary or binary weight, one pair of scales a layer, else one a part, else one a channel.

    A layer without zeros whose two scales are equal is binary, however it was made.

    Args:
        weight: Any floating-point dtype; compared exactly, no tolerance.
        dim: The dimension of output channels; None where there is none.
        parts: Equal parts along dimension 0 that are matrices of their own, such as attention's three projections.

    Returns:
        The codes, or None if some group has two distinct values of one sign, or a NaN or infinite value.
    """
    values = weight.detach()
    if values.numel() == 0 or not bool(torch.isfinite(values).all()):
        return None
    groups = [values.reshape(1, -1)]
    if parts > 1:
        groups.append(values.reshape(parts, -1))
    if values.dim() > 1 and dim is not None:
        groups.append(values.movedim(dim, 0).flatten(1))
    for rows in groups:
        if _one_value_a_sign(rows):
            binary = _no_zero_and_one_scale(rows)
            return Codes(
                values=torch.sign(values).to(torch.int8),
                kind="binary" if binary else "ternary",
                scales=len(rows) * (1 if binary else 2),
                smallest_group=rows.shape[1],
            )
    return None


def _one_value_a_sign(rows: Tensor) -> bool:
    """Whether each row of (groups, n) has at most one distinct positive and one distinct negative value."""
    for signed in (rows, -rows):
        largest = signed.amax(1, keepdim=True)
        if not bool(((signed <= 0) | (signed == largest)).all()):
            return False
    return True


def _no_zero_and_one_scale(rows: Tensor) -> bool:
    """Whether each row of (groups, n) takes only -s and +s, s > 0."""
    size = rows.abs()
    return bool((size > 0).all()) and bool((size == size[:, :1]).all())
