"""What a convolution or linear layer takes along of what follows it: one decision for every form of a model.

Whoever reads a model (torch's modules, or the operators of an exported graph) says what a follower is; here it is
decided whether the layer before it can do it in one go. The order in which that is done is always the same: BatchNorm,
pooling, activation. An activation before the pooling may be done after it, because it never turns the larger of two
values into the smaller one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Pair = tuple[int, int]


@dataclass(frozen=True)
class Norm:
    """BatchNorm with the statistics of the training; ``what`` is the reader's own."""

    what: Any


@dataclass(frozen=True)
class Activation:
    """Leaves numbers above zero as they are and multiplies those below by a slope."""

    slope: float


@dataclass(frozen=True)
class MaxPool:
    """Maxima over windows, each size (rows, columns); ``plain`` if there is no padding, dilation or rounding up."""

    window: Pair
    stride: Pair
    plain: bool


@dataclass(frozen=True)
class Nothing:
    """What does nothing in evaluation mode, such as dropout."""


Follower = Norm | Activation | MaxPool | Nothing


@dataclass
class Tail:
    """What follows a layer.

    Attributes:
        norm: BatchNorm, as the reader gave it, or None.
        slope: Of the activation below zero: 1 none, 0 ReLU, between them LeakyReLU.
        pool: (window, stride) of max-pooling, each (rows, columns), or None.
    """

    norm: Any = None
    slope: float = 1.0
    pool: tuple[Pair, Pair] | None = None

    def take(self, follower: Follower | None, linear: bool) -> bool:
        """Take along what nothing but the layer so far is followed by, if it can be.

        Args:
            follower: What it is; None for whatever no layer takes along.
            linear: Whether the layer is a linear one, whose outputs have no rows and columns.

        Returns:
            Whether it was taken.
        """
        match follower:
            case Nothing():
                return True
            case Norm(what) if not linear and self == Tail():
                self.norm = what
                return True
            case Activation(slope) if self.slope == 1 and 0 <= slope < 1:
                self.slope = slope
                return True
            case MaxPool(window, stride, True) if not linear and self.pool is None:
                self.pool = window, stride
                return True
        return False
