"""The interface that a step expects of its method; ``ternarizer.Ternarizer`` implements it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ttq_plugin.core.rules import ThresholdRule
from ttq_plugin.core.statistics import Dims, Statistics
from ttq_plugin.native.contract import KernelOptions

Params = dict[str, Tensor]
"""A layer's state besides its weight: ``scales`` (W_p, W_n), ``thresholds`` (the rule's parameters) and ``alpha``."""


class StepOptions(KernelOptions, Protocol):
    """A method's options, and what they imply for a weight."""

    @property
    def rule(self) -> ThresholdRule:
        """How thresholds follow from the parameters."""

    @property
    def surrogate(self) -> str:
        """The smooth step that the chain rule for the thresholds uses."""

    def project_(self, params: Params) -> None:
        """Clamp the learned parameters to the range that the method allows, in place."""

    def projected(self, params: Params) -> Params:
        """The result of ``project_`` in new tensors."""

    def dims(self, w: Tensor) -> Dims:
        """The dimensions that one group of ``w`` spans."""

    def latent(self, w: Tensor) -> Statistics:
        """Statistics of the weight as the rule sees it."""
