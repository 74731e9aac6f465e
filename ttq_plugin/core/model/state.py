"""A layer's learned parameters as a module, wherever they are attached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.core.contract import Params
from ttq_plugin.core.ternarizer import Ternarizer, keep_positive_
from ttq_plugin.errors import InputError


class TernaryState(nn.Module):
    """A layer's scales, thresholds and slope: parameters where the method learns them, buffers where it does not.

    Attributes:
        method: The ternary method, with its options.
        scales: W_p, W_n, shape (2, *group).
        thresholds: The rule's numbers, shape (k, *group).
        alpha: The surrogate's slope, of the group's shape.
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

    @property
    def _owner(self) -> TernaryState:
        """Whose thresholds these are: its own, or another layer's where all learn the same."""
        owner: TernaryState = vars(self).get("_shared_with", self)
        return owner

    def share(self, others: Sequence[TernaryState]) -> None:
        """Let other states learn this one's thresholds. A state dict then holds them once, under this one's name.

        Args:
            others: The other states, whose shapes are the same.
        """
        # Not registered with torch, which would take them for parts of this module.
        vars(self)["_sharing"] = list(others)
        for other in others:
            vars(other)["_shared_with"] = self
        self._share_again()

    def _share_again(self) -> None:
        """Let all hold the owner's tensor, which loading and moving replace."""
        for other in vars(self._owner).get("_sharing", ()):
            registry = other._parameters if "thresholds" in other._parameters else other._buffers
            registry["thresholds"] = self._owner.thresholds

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        result = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._share_again()
        return result

    def get_extra_state(self) -> Tensor:
        """The method's name, as a tensor, which every format of a state dict takes."""
        return torch.tensor(list(self.method.name.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing is taken from it: ``_load_from_state_dict`` has compared it."""

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._owner is not self:
            del destination[f"{prefix}thresholds"]

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        named = state_dict.get(f"{prefix}_extra_state")
        found = self.method.name if named is None else bytes(named.tolist()).decode(errors="replace")
        if found != self.method.name:
            error_msgs.append(
                f"{prefix.removesuffix('.')} is of the method {found!r}, this layer's is {self.method.name!r}; load it "
                "into a model that was made ternary by that method."
            )
            return
        missing: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs)
        # Older state dicts have no name, and shared thresholds stand under their owner's name alone.
        absent = {f"{prefix}_extra_state"} | ({f"{prefix}thresholds"} if self._owner is not self else set())
        missing_keys += [key for key in missing if key not in absent]
        self._share_again()

    @torch.no_grad()
    def load(self, params: Params) -> None:
        """Copy values into this state's tensors.

        Args:
            params: Some or all of this state's names, each of the same shape as here.
        """
        for name, value in params.items():
            getattr(self, name).copy_(value)


@torch.no_grad()
def share_thresholds(states: Sequence[TernaryState]) -> None:
    """Let all layers learn one set of thresholds, beginning from the lowest of theirs (one may have been clipped).

    Args:
        states: The layers' states; afterwards all hold the first one's tensor, also when it is loaded or moved.

    Raises:
        InputError: If the layers have thresholds of different shapes; nothing is changed then.
    """  # noqa: DOC502 - raised by what it calls
    check_shareable([state.thresholds for state in states])
    owner, *others = states
    for state in others:
        torch.minimum(owner.thresholds, state.thresholds, out=owner.thresholds)
    owner.share(others)


def check_shareable(thresholds: Sequence[Tensor]) -> None:
    """Check that one set of thresholds can be that of all layers.

    Args:
        thresholds: Each layer's own.

    Raises:
        InputError: If they are of different shapes.
    """
    if len({values.shape for values in thresholds}) > 1:
        raise InputError(
            "layers with one threshold per channel cannot share their thresholds; use granularity default."
        )
