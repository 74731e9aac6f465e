"""Weights on an integer grid (int8, int4): reads the codes from their values."""

import torch
from torch import Tensor

from ttq_plugin.errors import InputError
from ttq_plugin.measures.ternary import Codes

BITS = range(2, 17)
"""Bits a weight that a grid can be measured at."""


def levels(bits: int) -> int:
    """Values of a symmetric grid, 2^bits - 1: zero among them, the lowest code of two's complement not."""
    return (1 << bits) - 1


def integer_codes(weight: Tensor, bits: int, dim: int = 0) -> Codes | None:
    """Read the codes of a weight on a grid, step x {-m .. m}, m = 2^(bits - 1) - 1; one step a layer, or one a channel.

    The step is the widest that fits: a weight that uses few levels may get smaller codes than its quantizer gave it,
    which changes nothing in what they cost; so may, in float32, a grid of more than 11 bits.

    Args:
        weight: Any floating-point dtype; a value may deviate by the rounding of its dtype (at least float32's).
        bits: Number of bits of a code, in `BITS`.
        dim: The dimension of output channels.

    Returns:
        The codes (int8, beyond 8 bits int16), or None if the values lie on no such grid.

    Raises:
        InputError: If the dtype is too coarse to distinguish such a grid from other values.
    """
    values = weight.detach().cpu()
    if values.numel() == 0 or not bool(torch.isfinite(values).all()):
        return None
    # The ratio of two values, each rounded once, is off by up to one epsilon; half of the allowance is for safety.
    tolerance = 2 * max(torch.finfo(values.dtype).eps, torch.finfo(torch.float32).eps)
    largest = levels(bits) // 2
    if tolerance * largest >= 0.25:
        raise InputError(
            f"A {str(values.dtype).removeprefix('torch.')} weight is too coarse to be measured at {bits} bits: convert "
            "both models to float32 first."
        )
    channels = values.movedim(dim, 0).double()
    for groups in (1, len(channels)) if values.dim() > 1 else (1,):
        rows = [_multiples(row, largest, tolerance) for row in channels.reshape(groups, -1)]
        found = [row for row in rows if row is not None]
        if len(found) == groups:
            codes = torch.stack(found).reshape(channels.shape).movedim(0, dim)
            return Codes(
                values=codes.to(device=weight.device, dtype=torch.int8 if bits <= 8 else torch.int16),
                kind=f"int{bits}",
                scales=groups,
                smallest_group=values.numel() // groups,
            )
    return None


def _multiples(row: Tensor, largest: int, tolerance: float) -> Tensor | None:
    """Integers of at most `largest` that float64 values (n,) are one step's multiples of, or None."""
    sizes = torch.unique(row.abs())
    if sizes[-1] == 0:
        return row
    if len(sizes) > largest + 1:
        return None
    # What may the code of the largest value be? Each part of the values leaves fewer answers.
    codes = torch.arange(1, largest + 1, dtype=row.dtype)
    for part in sizes.split(64):
        ratios = part[:, None] / sizes[-1] * codes
        codes = codes[((ratios - ratios.round()).abs() <= tolerance * ratios).all(0)]
    return (row / sizes[-1] * codes[0]).round() if len(codes) else None
