"""A layer's learned numbers as a module, wherever they are attached."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ttq_plugin.core.ternarizer import Params, Ternarizer, keep_positive_
from ttq_plugin.errors import InputError


class TernaryState(nn.Module):
    """A layer's scales, thresholds and slope: parameters where the method learns them, buffers where it does not.

    Attributes:
        method: the ternary method, with its options.
        scales: W_p, W_n, shape (2, *group).
        thresholds: the rule's numbers, shape (k, *group).
        alpha: the surrogate's slope, of the group's shape.
    """

    scales: Tensor
    thresholds: Tensor
    alpha: Tensor

    def __init__(self, method: Ternarizer, params: Params) -> None:
        super().__init__()
        self.method = method
        self.names = tuple(params)
        for name, value in params.items():
            if name in method.learnable:
                self.register_parameter(name, nn.Parameter(value.clone()))
            else:
                self.register_buffer(name, value.clone())

    @property
    def params(self) -> Params:
        """The method's parameters as ``Ternarizer`` takes them."""
        return {name: getattr(self, name) for name in self.names}

    def project_(self) -> None:
        """See ``Ternarizer.project_``; parameters are what the method learns."""
        keep_positive_(self._parameters.values())

    def forward(self, w: Tensor) -> Tensor:
        """The ternary weight of the latent weight ``w``."""
        # The two registries themselves: nn.Module's search for each name would cost as much as a small layer.
        return self.method.weights(w, self._buffers | self._parameters)  # type: ignore[operator]

    def codes(self, w: Tensor) -> Tensor:
        """Signs of the ternary weight, int8, of w's shape."""
        return self.method.codes(w, self.params)

    @torch.no_grad()
    def load(self, params: Params) -> None:
        """Copy values into this state's tensors.

        Args:
            params: some or all of this state's names, each of the same shape as here.
        """
        for name, value in params.items():
            getattr(self, name).copy_(value)


@torch.no_grad()
def share_thresholds(states: Sequence[TernaryState]) -> None:
    """Let all layers learn one set of thresholds, beginning from the lowest of theirs (one may have been clipped).

    Args:
        states: the layers' states; afterwards all hold the first one's tensor.

    Raises:
        InputError: if the layers have thresholds of different shapes; nothing is changed then.
    """
    if len({state.thresholds.shape for state in states}) > 1:
        raise InputError("layers with one threshold a channel cannot share them; use granularity default.")
    shared = states[0].thresholds
    for state in states[1:]:
        torch.minimum(shared, state.thresholds, out=shared)
        state.thresholds = shared
