"""Which layers are ternary or binary, read off the values of their weights."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ttq_plugin.errors import InputError

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHTED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
"""The layers whose `weight` can be ternary."""

Kind = Literal["float", "ternary", "binary"]


@dataclass(frozen=True)
class Codes:
    """The codes of one layer's weight.

    Attributes:
        values: int8, -1, 0 or +1, the shape of the weight.
        kind: `ternary`, or `binary`: no zero, and both signs share one scale.
        scales: 32-bit scales stored: ternary 2, binary 1, a layer or an output channel.
        smallest_group: weights of the smallest group that shares scales (the layer, or one channel).
    """

    values: Tensor
    kind: Kind
    scales: int
    smallest_group: int

    @property
    def nonzeros(self) -> int:
        """Weights that are not zero."""
        return int(torch.count_nonzero(self.values))


def channel_dim(module: nn.Module) -> int:
    """The dimension of `module.weight` that runs over output channels: 1 in transposed convolutions, else 0."""
    return 1 if isinstance(module, TRANSPOSED) else 0


def codes_of(weight: Tensor, dim: int = 0) -> Codes | None:
    """Read the codes of a ternary or binary weight, one pair of scales a layer or else one a channel.

    A layer without zeros whose two scales are equal is binary, however it was made.

    Args:
        weight: any floating-point dtype; compared exactly, no tolerance.
        dim: the dimension of output channels.

    Returns:
        The codes, or None if some group has two distinct values of one sign, or a NaN or infinite value.
    """
    values = weight.detach()
    if values.numel() == 0 or not bool(torch.isfinite(values).all()):
        return None
    groups = [values.reshape(1, -1)]
    if values.dim() > 1:
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


def select_layers(
    full_precision: nn.Module, compressed: nn.Module, layers: Iterable[str] | None = None
) -> dict[nn.Parameter, Codes]:
    """The compressed weights and their codes; a weight shared by several modules appears once.

    Detection (`layers` None) takes a weight that is ternary or binary and differs from its twin; groups of one or two
    weights prove nothing (any two weights of opposite signs are ternary), so such layers have to be named.

    Args:
        full_precision: the model before.
        compressed: its twin, with the same parameters.
        layers: names of modules; None detects them from their values.

    Returns:
        Parameter of `compressed` -> its codes, in the order of the modules.

    Raises:
        InputError: an unknown layer, one that cannot be ternary, one that is not, or no layer at all.
    """
    twins = dict(full_precision.named_modules(remove_duplicate=False))
    modules = dict(compressed.named_modules(remove_duplicate=False))
    if layers is None:
        found = _detect(twins, modules)
    else:
        found = {}
        for name in layers:
            weight, codes = _named(modules, name)
            found[weight] = codes
    if not found:
        raise InputError(
            "measure needs at least one ternary or binary layer in `compressed`, got none"
            + (": quantise it, or export the compressed model first." if layers is None else ": name one in `layers`.")
        )
    return found


def _detect(twins: dict[str, nn.Module], modules: dict[str, nn.Module]) -> dict[nn.Parameter, Codes]:
    found: dict[nn.Parameter, Codes] = {}
    for name, module in modules.items():
        weight = module._parameters.get("weight")
        if not isinstance(module, WEIGHTED) or weight is None or weight in found:
            continue
        before = twins[name]._parameters["weight"] if name in twins else None
        if before is not None and torch.equal(before.detach().double().cpu(), weight.detach().double().cpu()):
            continue
        codes = codes_of(weight, channel_dim(module))
        if codes is not None and codes.smallest_group > 2:
            found[weight] = codes
    return found


def _named(modules: dict[str, nn.Module], name: str) -> tuple[nn.Parameter, Codes]:
    if name not in modules:
        known = ", ".join(n for n, m in modules.items() if isinstance(m, WEIGHTED))
        raise InputError(f"`layers` must name layers of the model, got {name!r}; it has {known}.")
    module = modules[name]
    weight = module._parameters.get("weight")
    if not isinstance(module, WEIGHTED) or weight is None:
        raise InputError(
            f"`layers` must name convolutions or linear layers with a weight, got {name!r}, "
            f"a {type(module).__name__}: leave it out."
        )
    codes = codes_of(weight, channel_dim(module))
    if codes is None:
        raise InputError(
            f"Layer {name!r} must hold at most one positive and one negative value a layer or output channel, got "
            f"{len(torch.unique(weight.detach()))} distinct values: bake or export the compressed model first, "
            "or leave the layer out."
        )
    return weight, codes
