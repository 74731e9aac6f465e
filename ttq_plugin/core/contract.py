"""What a step reads of the method that it is a step of; ``ternarizer.Ternarizer`` is the one that has it all."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ttq_plugin.core.rules import ThresholdRule
from ttq_plugin.core.statistics import Dims, Statistics
from ttq_plugin.native.contract import KernelOptions

Params = dict[str, Tensor]
"""A layer's state beside its weight: ``scales`` (W_p, W_n), ``thresholds`` (the rule's numbers), ``alpha``."""


class StepOptions(KernelOptions, Protocol):
    """A method's options, and what follows from them for a weight."""

    @property
    def rule(self) -> ThresholdRule:
        """How thresholds follow from the numbers."""

    @property
    def surrogate(self) -> str:
        """Which smooth step the thresholds' chain rule goes through."""

    def project_(self, params: Params) -> None:
        """Bring what was learned back to where the method allows it, in place."""

    def projected(self, params: Params) -> Params:
        """What ``project_`` would leave, in new tensors."""

    def dims(self, w: Tensor) -> Dims:
        """The dimensions that one group of ``w`` spans."""

    def latent(self, w: Tensor) -> Statistics:
        """Statistics of the weight as the rule sees it."""
