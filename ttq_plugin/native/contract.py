"""The interface that the kernels expect of a method: plain options, independent of the mathematics above."""

from __future__ import annotations

from typing import Protocol


class KernelRule(Protocol):
    """A threshold rule, as the kernels know it."""

    @property
    def native(self) -> int | None:
        """The rule's number in the C code."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its numbers, in the order in which they are stacked."""


class KernelOptions(Protocol):
    """The options of a ternary step that change its arithmetic."""

    @property
    def rule(self) -> KernelRule:
        """How thresholds follow from the numbers."""

    @property
    def normalize(self) -> bool:
        """Whether the weight is divided by its largest magnitude first."""

    @property
    def learn_scales(self) -> bool:
        """Whether scales are trained."""

    @property
    def learn_thresholds(self) -> bool:
        """Whether thresholds are trained."""

    @property
    def learn_alpha(self) -> bool:
        """Whether the surrogate's slope is trained."""

    @property
    def learns_shape(self) -> bool:
        """Whether either of the two is trained."""

    @property
    def dead_zone(self) -> str:
        """The gradient in the dead zone: ``pass`` or ``zero``."""

    @property
    def channel(self) -> int | None:
        """The dimension that has scales and thresholds of its own."""
