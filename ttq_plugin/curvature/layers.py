"""Selects the weight matrices whose curvature is measured, and checks them."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from ttq_plugin.core.model.matrices import Matrix, layouts, matrices, matrix_name, named_matrices
from ttq_plugin.errors import InputError


def candidate_layers(model: nn.Module, layers: Iterable[str] | None = None) -> dict[str, Matrix]:
    """The weight matrices that can be trained, one at a time; frozen ones are skipped, shared weights count once.

    A weight computed from other parameters (`torch.nn.utils.parametrize`) does not belong to the layer: it is skipped,
    and so are `nn.EmbeddingBag`s, which have no second derivative.

    Args:
        model: Any module.
        layers: Names to keep, in the model's order, as `ternarize` takes them; None keeps all.

    Returns:
        Name -> matrix, in the model's order; a layer whose one matrix it is gives it its name.

    Raises:
        InputError: No layer is left, a name is not a candidate, or a weight has half precision or no shape yet.
    """
    known = matrices(model)
    found = {
        name: matrix
        for name, matrix in known.items()
        if matrix.parameter.requires_grad and not isinstance(matrix.module, nn.EmbeddingBag)
    }
    if not found:
        raise InputError(
            "The model must have a layer with a weight matrix that requires gradients, got none: unfreeze the layers "
            "to be measured."
        )
    if layers is not None:
        chosen = expanded(model, known, list(layers))
        if unknown := [name for name in chosen if name not in found] or ([] if chosen else ["an empty list"]):
            raise InputError(
                "`layers` must name layers with a trainable weight, got "
                f"{', '.join(map(repr, unknown)) if chosen else unknown[0]}; the model has {', '.join(found)}."
            )
        found = {name: matrix for name, matrix in found.items() if name in chosen}
    for name, matrix in found.items():
        weight = matrix.parameter
        if is_lazy(weight):
            raise InputError(f"Layers must have a shape, got {name!r} without one: run the model once first.")
        if weight.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"Second derivatives need float32 or float64 weights, got {weight.dtype} in layer {name!r}: "
                "call model.float() first."
            )
    return found


def passed_over(model: nn.Module) -> list[tuple[str, str]]:
    """The weight matrices that are not candidates, each with the reason.

    Args:
        model: Any module.

    Returns:
        Names and reasons, in the model's order.
    """
    known = matrices(model)
    found = []
    for path, module in model.named_modules():
        for key in layouts(module):
            name = matrix_name(path, key)
            if module._parameters.get(key) is None:
                if _is_computed(module, key):
                    found.append((name, "the weight is computed from other tensors (parametrized, or by a hook)"))
            elif name in known and not known[name].parameter.requires_grad:
                found.append((name, "the weight is frozen (requires_grad is False)"))
            elif isinstance(module, nn.EmbeddingBag):
                found.append((name, "an nn.EmbeddingBag has no second derivative"))
    return found


def _is_computed(module: nn.Module, key: str) -> bool:
    """Whether an attribute exists but is not a parameter. It is not read, which would run spectral normalisation."""
    held = (module.__dict__.get(key), module._buffers.get(key))
    return is_parametrized(module, key) or any(tensor is not None for tensor in held)


def expanded(model: nn.Module, known: dict[str, Matrix], names: Iterable[str]) -> list[str]:
    """Replace names of modules that hold several matrices by the names of these; other names stay.

    Args:
        model: The model.
        known: Its `matrices`.
        names: The names, as the user gave them.

    Returns:
        The names, each once.
    """
    found: dict[str, None] = {}
    for name in names:
        inside = [matrix.name for matrix in named_matrices(model, name, known)] if isinstance(name, str) else []
        found |= dict.fromkeys(inside or [name])
    return list(found)
