"""A method attached to a plain model as a torch parametrization: any training loop trains it.

``module.weight`` then reads as the ternary weight, computed from the latent weight,
``module.parametrizations.weight.original``, and the layer's ``AttachedTernary``, ``module.parametrizations.weight[0]``;
likewise every other tensor that is a weight matrix, such as ``weight_hh_l0``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ttq_plugin.core.methods import get_method
from ttq_plugin.core.model.copying import copied
from ttq_plugin.core.model.layers import matrix_channel
from ttq_plugin.core.model.matrices import Matrix
from ttq_plugin.core.model.parametrized import (
    Attached,
    AttachedParts,
    AttachedTernary,
    attach,
    check_detachable,
    detach,
    states,
)
from ttq_plugin.core.model.select import part_name, select_matrices
from ttq_plugin.core.model.state import share_thresholds
from ttq_plugin.core.ternarizer import Ternarizer
from ttq_plugin.errors import InputError


def ternarize(
    model: nn.Module,
    layers: Iterable[str],
    method: str | Ternarizer = "pttq",
    *,
    granularity: str = "default",
    **options: Any,
) -> nn.Module:
    """Make every weight matrix of the named modules ternary while the model trains, in any loop; ``bake`` ends it.

    Build the optimiser afterwards, from ``parameter_groups(model)``: scales and thresholds are new parameters. Each
    matrix has its own: the input and the recurrent ones of an LSTM, the query, key and value projections that
    attention stacks. A tensor that several layers share stays one, with one set of scales.

    Args:
        model: the model, full precision; changed in place.
        layers: names of modules, as in ``model.named_modules()``: layers, or whole blocks of them; or of parameters,
            such as ``lstm.weight_hh_l0``.
        method: a name in ``METHODS``, or a method.
        granularity: ``default`` for one pair of scales a matrix (the papers), ``out_channel`` for one an output
            channel.
        options: the method's numbers and options (``t``, ``t_min``, ``alpha``, ``scale_init``, ``on_empty``, ...), see
            ``Ternarizer``.

    Returns:
        The model itself. A threshold that ``on_empty="clip"`` lowered is told in a warning.

    Raises:
        InputError: for a module, weight, method or option that cannot work; the model is left as it was.
    """
    chosen = (get_method(method) if isinstance(method, str) else method).configure(**options)
    found = select_matrices(model, layers)
    attached: dict[str, Attached] = {}
    notes: list[str] = []
    for name, matrix in found.items():
        attached[name], lowered = _initial(matrix, chosen, granularity)
        notes += lowered
    if chosen.share_thresholds:
        share_thresholds([state for part in attached.values() for state in states(part)])
    attach(found, attached)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return model


def _initial(matrix: Matrix, method: Ternarizer, granularity: str) -> tuple[Attached, list[str]]:
    """A matrix's parametrization before any training, and what was lowered for it in words."""
    channel = matrix_channel(matrix.name, matrix.layout, granularity)
    parts = matrix.layout.parts if channel is None else 1
    own = method if channel is None else method.configure(channel=channel)
    made = [own.init(part, part_name(matrix.name, i, parts)) for i, part in enumerate(matrix.parameter.chunk(parts))]
    learned = [AttachedTernary(own, params) for params, _ in made]
    return learned[0] if parts == 1 else AttachedParts(learned), [note for _, notes in made for note in notes]


def parameter_groups(
    model: nn.Module, lr_scale: float | None = 1e-3, lr_threshold: float | None = 1e-4, **rest: Any
) -> list[dict[str, Any]]:
    """Groups for an optimiser: weights and all else, scales, thresholds with alpha; each parameter exactly once.

    Args:
        model: a model that ``ternarize`` changed, or a full-precision one, which gives one group.
        lr_scale: learning rate of the scales W_p, W_n; None for the optimiser's own.
        lr_threshold: learning rate of thresholds and alpha where the method learns them; None for the optimiser's own.
        rest: options of the first group, such as ``weight_decay``.

    Returns:
        One to three groups, without empty ones. Scales and thresholds have no weight decay: it would pull them to
        zero, where neither means anything.

    Raises:
        InputError: for a learning rate that is negative or no number.
    """
    own: dict[str, list[nn.Parameter]] = {"scales": [], "thresholds": []}
    for state in states(model):
        own["scales"] += [p for n, p in state.named_parameters(recurse=False) if n == "scales"]
        own["thresholds"] += [p for n, p in state.named_parameters(recurse=False) if n != "scales"]
    learned = {id(p) for members in own.values() for p in members}
    groups: list[dict[str, Any]] = [{**rest, "params": [p for p in model.parameters() if id(p) not in learned]}]
    for members, key, rate in (
        (own["scales"], "lr_scale", lr_scale),
        (own["thresholds"], "lr_threshold", lr_threshold),
    ):
        options = {} if check_rate(key, rate) is None else {"lr": rate}
        groups.append({"params": list({id(p): p for p in members}.values()), "weight_decay": 0.0, **options})
    return [group for group in groups if group["params"]]


def project_(model: nn.Module) -> None:
    """Bring every scale, threshold and alpha back to at least 1e-8, in place.

    Forward passes do so by themselves. Call it after ``optimizer.step()`` only where they see copies of the parameters
    that the optimiser changes (FSDP's shards, a master copy in another precision), else scales may stay negative.

    Args:
        model: a model that ``ternarize`` changed, sharded or not.
    """
    for state in states(model):
        state.project_()


@torch.no_grad()
def bake(model: nn.Module) -> nn.Module:
    """A plain copy of the model whose selected weights are exactly ``{-W_n, 0, +W_p}``; training can go on.

    Args:
        model: a model that ``ternarize`` changed, compiled or not; not changed.

    Returns:
        A deep copy without parametrizations of this module's, in the mode (train or eval) of the model; its state dict
        has the keys and the order of the model before ``ternarize``.

    Raises:
        InputError: if no layer is ternary, one has further parametrizations, or the model is sharded.
    """
    model = getattr(model, "_orig_mod", model)
    check_detachable(model)
    plain = copied(model)
    detach(plain)
    return plain


def check_rate(name: str, value: float | None) -> float | None:
    """A learning rate that can work.

    Args:
        name: what it is called, for the message.
        value: the rate, or None for the optimiser's own.

    Returns:
        The value.

    Raises:
        InputError: if it is negative or no number.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e6):
        raise InputError(f"{name} must be a number of at least 0, or None for the optimiser's own, got {value!r}.")
    return value
