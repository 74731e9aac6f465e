"""The arithmetic of integer networks: one rounding, defined here, and its parts as exact functions.

A tensor is int8 and affine: ``real = scale (q - zero)``. A sum of products becomes int8 by *requantisation*: an int64
total of products with mantissas (at most ``MANTISSA_BITS`` bits) is shifted to the right, rounded half away from zero,
moved by the zero point and clamped. Nothing here depends on a floating-point unit once the mantissas are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LOWEST, HIGHEST = -128, 127
"""The range of int8."""

MANTISSA_BITS = 30
"""Bits of the largest mantissa: two products with int32 sums still add up in int64."""

PAIR_BITS = 21
"""Bits of a mantissa where two products with differences of int8 must add up in int32."""

TOTAL_BITS = 61
"""Bits that no part of a total may exceed, so that a sum of three stays in int64."""

BIAS_BITS = 16
"""Fractional bits of a bias, at most."""


@dataclass(frozen=True)
class Affine:
    """How the numbers of a tensor are to be read.

    Attributes:
        scale: Size of one step, above 0.
        zero: The int8 value that represents 0.
    """

    scale: float
    zero: int

    @classmethod
    def of_range(cls, low: float, high: float) -> Affine:
        """Find the finest affine int8 grid that covers a range and holds 0 exactly.

        Args:
            low: Least value; 0 is covered in any case.
            high: Largest value.

        Returns:
            The grid; of step 1 where the range is only 0.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / (HIGHEST - LOWEST)
        if scale == 0 or not math.isfinite(scale):
            return cls(1.0, 0)
        return cls(scale, clamped(half_away(LOWEST - low / scale)))

    def quantise(self, x: Tensor) -> Tensor:
        """Round real numbers to the grid; int8, saturated.

        Args:
            x: Floating point, any shape; what is not a number becomes 0.

        Returns:
            int8 of the same shape.
        """
        steps = torch.nan_to_num(x.double() / self.scale, nan=0.0).clamp(-1e9, 1e9)
        rounded = torch.sign(steps) * torch.floor(steps.abs() + 0.5)
        return (rounded + self.zero).clamp(LOWEST, HIGHEST).to(torch.int8)

    def dequantise(self, q: Tensor) -> Tensor:
        """The real numbers that integers represent.

        Args:
            q: Integers of any shape.

        Returns:
            float32 of the same shape.
        """
        return ((q.double() - self.zero) * self.scale).float()

    def bound(self, value: float) -> int:
        """The int8 nearest to a real bound, which may be infinite."""
        if math.isinf(value):
            return LOWEST if value < 0 else HIGHEST
        return clamped(half_away(value / self.scale) + self.zero)


def clamped(value: int, low: int = LOWEST, high: int = HIGHEST) -> int:
    """The nearest integer within bounds."""
    return max(low, min(high, value))


def half_away(value: float) -> int:
    """The nearest integer; halves go away from 0."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def rounded_shift(total: Tensor, shift: int | Tensor) -> Tensor:
    """``total / 2^shift``, rounded to the nearest integer, halves away from 0.

    Args:
        total: int64, at most 2^62 in size.
        shift: Right shift from 1 to 62; one, or one for each total.

    Returns:
        int64 of the same shape.
    """
    size = (total.abs() + (1 << (shift - 1))) >> shift
    return torch.where(total < 0, -size, size)


def requantise(total: Tensor, shift: int, zero: int, low: int = LOWEST, high: int = HIGHEST) -> Tensor:
    """``clamp(zero + round(total / 2^shift))``, the one way in which a total becomes int8.

    Args:
        total: int64, at most 2^62 in size.
        shift: Right shift from 1 to 62.
        zero: The result's zero point.
        low: Least result.
        high: Largest result.

    Returns:
        int8 of the same shape.
    """
    return (rounded_shift(total, shift) + zero).clamp(low, high).to(torch.int8)


def mantissas(factors: Tensor, bits: int = MANTISSA_BITS, most: int = TOTAL_BITS) -> tuple[Tensor, int]:
    """Write real factors as integers over one power of two.

    Args:
        factors: float64; the largest in size gets ``bits`` bits.
        bits: Number of bits of the largest mantissa.
        most: Largest shift.

    Returns:
        int64 mantissas of the same shape, and the shift: ``factors ~ mantissas / 2^shift``.
    """
    largest = float(factors.abs().max()) if factors.numel() else 0.0
    shift = most if largest == 0 else bits - math.frexp(largest)[1]
    shift = max(1, min(shift, most))
    found = torch.round(factors.double() * 2.0**shift)
    if float(found.abs().max() if found.numel() else 0) >= 2.0**bits and shift > 1:
        return mantissas(factors, bits, shift - 1)
    return found.clamp(-(2.0**bits) + 1, 2.0**bits - 1).to(torch.int64), shift


def biases(values: Tensor, shift: int) -> tuple[Tensor, int]:
    """Write biases, in steps of the output, with as many fractional bits as an int16 can hold, else as int32.

    Args:
        values: float64.
        shift: Shift of the total to which the biases are added; no bias gets more fractional bits.

    Returns:
        int64 values, and how many fractional bits they have: ``values ~ found / 2^bits``.
    """
    largest = float(values.abs().max()) if values.numel() else 0.0
    bits = min(BIAS_BITS, shift)
    if largest * 2.0**bits >= 2**15 - 1:
        short = 14 - math.frexp(largest)[1]
        bits = short if short >= 4 else min(bits, 30 - math.frexp(largest)[1])
    bits = max(0, min(bits, shift))
    return torch.round(values * 2.0**bits).clamp(-(2.0**31), 2.0**31 - 1).to(torch.int64), bits


def table(function: Callable[[Tensor], Tensor], source: Affine, target: Affine) -> Tensor:
    """A function of one number as 256 int8.

    Args:
        function: An element-wise function of float64 tensors.
        source: Grid of the argument.
        target: Grid of the result.

    Returns:
        int8 (256,); entry ``q + 128`` belongs to the argument ``q``.
    """
    q = torch.arange(LOWEST, HIGHEST + 1, dtype=torch.float64)
    return target.quantise(function((q - source.zero) * source.scale))
