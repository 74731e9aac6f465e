"""Networks of several branches that a module called ``fusion`` joins: which branch decides, and which is ternary."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

FUSION, ATTENTION = "fusion", "fusion.attention"
"""The module that joins branches, and the one whose output is each sample's attention on the first of them."""


@contextmanager
def attention_of(model: nn.Module) -> Iterator[list[Tensor]]:
    """Watch what the attention gives while the model runs.

    Args:
        model: Any; without such a module nothing is seen.

    Yields:
        A list that grows by one tensor (samples,) a call, on the CPU.
    """
    seen: list[Tensor] = []
    modules = dict(model.named_modules())
    if ATTENTION not in modules:
        yield seen
        return

    def keep(module: nn.Module, given: Any, found: Any) -> None:
        if isinstance(found, Tensor):
            seen.append(found.detach().cpu())

    hook = modules[ATTENTION].register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def by_class(seen: list[Tensor], targets: Any) -> dict[str, float]:
    """The mean attention on the first branch, class by class.

    Args:
        seen: What ``attention_of`` returned.
        targets: A class for each sample.

    Returns:
        ``attention_<class>``, for the classes that occur; nothing where there is not one number in [0, 1] and one class
        for each sample.
    """
    if not seen or not isinstance(targets, Tensor) or targets.dim() != 1 or targets.is_floating_point():
        return {}
    if any(part.dim() == 0 or part.numel() != len(part) for part in seen):
        return {}
    attention = torch.cat([part.reshape(-1).float() for part in seen])
    if len(attention) != len(targets) or not bool(((attention >= 0) & (attention <= 1)).all()):
        return {}
    return {f"attention_{int(k)}": float(attention[targets == k].mean()) for k in targets.unique() if k >= 0}


def ternary_shares(model: nn.Module, layers: Collection[str]) -> dict[str, float]:
    """How much of each branch is quantised.

    Args:
        model: The model of branches beside a module ``fusion``.
        layers: The names of its quantised layers.

    Returns:
        ``ternary_<branch>``: share of the branch's weights (parameters of two dimensions or more) in those layers, for
        each child of the model with such weights; nothing for a model without a fusion.
    """
    children = dict(model.named_children())
    if FUSION not in children:
        return {}
    found = {}
    for name, child in children.items():
        weights = {f"{name}.{key}": p.numel() for key, p in child.named_parameters() if p.dim() > 1}
        if weights:
            own = sum(size for key, size in weights.items() if key.rpartition(".")[0] in layers)
            found[f"ternary_{name}"] = own / sum(weights.values())
    return found
