"""Attaches a method to a plain model as a torch parametrization, so that any training loop can train it.

``module.weight`` then reads as the ternary weight, computed from the latent weight,
``module.parametrizations.weight.original``, and the layer's ``AttachedTernary``, ``module.parametrizations.weight[0]``;
the same holds for every other tensor that is a weight matrix, such as ``weight_hh_l0``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ttq_plugin.core.methods import get_method
from ttq_plugin.core.model.copying import copied
from ttq_plugin.core.model.course import Course, begin, course_of
from ttq_plugin.core.model.held import check_trainable
from ttq_plugin.core.model.layers import matrix_channel
from ttq_plugin.core.model.matrices import Matrix, part_name
from ttq_plugin.core.model.parametrized import (
    Attached,
    AttachedParts,
    AttachedTernary,
    attach,
    check_detachable,
    course_members,
    detach,
    members_of,
    states,
)
from ttq_plugin.core.model.select import select_matrices
from ttq_plugin.core.model.state import share_thresholds
from ttq_plugin.core.ternarizer import Ternarizer
from ttq_plugin.errors import InputError
from ttq_plugin.methods import LR_THRESHOLD
from ttq_plugin.support.arguments import check_types, shown


def ternarize(
    model: nn.Module,
    layers: Iterable[str],
    method: str | Ternarizer = "pttq",
    *,
    granularity: str = "default",
    **options: Any,
) -> nn.Module:
    """Make every weight matrix of the named modules ternary, in any training loop, until ``bake``.

    Build the optimiser afterwards, from ``parameter_groups(model)``, because scales and thresholds are new parameters.
    Each matrix has scales and thresholds of its own, such as the input and the recurrent matrices of an LSTM and the
    query, key and value projections that attention stacks. A tensor that several layers share stays shared and has one
    set of scales.

    Args:
        model: The full-precision model, compiled or not; it is changed in place.
        layers: Names of layers or of whole blocks, as in ``model.named_modules()``, or of parameters, such as
            ``lstm.weight_hh_l0``.
        method: A name in ``METHODS``, or a method.
        granularity: ``default`` for one pair of scales per matrix, as in the papers, or ``out_channel`` for one pair
            per output channel.
        options: The method's numbers and options (``t``, ``t_min``, ``alpha``, ``scale_init``, ``on_empty``, ...), see
            ``Ternarizer``. With ``zeros=0.9`` exactly this share of all their weights is zero at the end. In that
            case, call ``project_(model)`` after each optimizer step, and pass the number of steps as ``zeros_steps``.

    Returns:
        The model itself. If ``on_empty="clip"`` lowers a threshold, a warning says so.

    Raises:
        InputError: If a module, weight, method or option cannot be used; the model is left unchanged.

    Examples:
        >>> import torch
        >>> from ttq_plugin import ternarize
        >>> model = ternarize(torch.nn.Sequential(torch.nn.Linear(16, 8)), ["0"], method="twn")
        >>> len(model[0].weight.unique())
        3
    """
    check_types(ternarize, {"model": model, "method": method})
    check_trainable(model)
    chosen = (get_method(method) if isinstance(method, str) else method).configure(**options)
    found = select_matrices(plain_model(model), _plain_names(model, layers))
    attached: dict[str, Attached] = {}
    notes: list[str] = []
    for name, matrix in found.items():
        attached[name], lowered = _initial(matrix, chosen, granularity)
        notes += lowered
    every = [state for part in attached.values() for state in states(part)]
    if chosen.zeros is not None:
        begin(chosen, [m for name, part in attached.items() for m in members_of(name, part, found[name].parameter)])
        Course(every)
        notes = []  # which the method's own parameters would have left empty
    if chosen.share_thresholds:
        share_thresholds(every)
    attach(found, attached)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return model


def _initial(matrix: Matrix, method: Ternarizer, granularity: str) -> tuple[Attached, list[str]]:
    """A matrix's initial parametrization, and a note on each threshold that was lowered."""
    channel = matrix_channel(matrix.name, matrix.layout, granularity)
    parts = matrix.layout.parts if channel is None else 1
    own = method if channel is None else method.configure(channel=channel)
    made = [own.init(part, part_name(matrix.name, i, parts)) for i, part in enumerate(matrix.parameter.chunk(parts))]
    learned = [AttachedTernary(own, params) for params, _ in made]
    return learned[0] if parts == 1 else AttachedParts(learned), [note for _, notes in made for note in notes]


def parameter_groups(
    model: nn.Module, lr_scale: float | None = 1e-3, lr_threshold: float | None = LR_THRESHOLD, **rest: Any
) -> list[dict[str, Any]]:
    """Group the parameters for an optimiser: scales, thresholds with alpha, and all others; each appears exactly once.

    Args:
        model: A model that ``ternarize`` changed, or a full-precision one, which gives one group.
        lr_scale: Learning rate of the scales W_p and W_n; None for the optimiser's own.
        lr_threshold: Learning rate of thresholds and alpha, if the method learns them; None for the optimiser's own.
        rest: Options of the first group, such as ``weight_decay``.

    Returns:
        One to three groups, none of them empty. Scales and thresholds have no weight decay, which would pull them
        towards zero, where they have no meaning.

    Raises:
        InputError: If a learning rate is negative or not a number.

    Examples:
        >>> import torch
        >>> from ttq_plugin import parameter_groups, ternarize
        >>> model = ternarize(torch.nn.Sequential(torch.nn.Linear(16, 8)), ["0"], method="pttq")
        >>> groups = parameter_groups(model, lr_scale=1e-3, lr_threshold=1e-4)
        >>> [group.get("lr") for group in groups]
        [None, 0.001, 0.0001]
        >>> optimizer = torch.optim.Adam(groups, lr=1e-2)
    """
    check_types(parameter_groups, {"model": model})
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
    """Clamp scales, thresholds and alpha to at least 1e-8, in place, and advance a prescribed share of zeros.

        Call it after each ``optimizer.step()`` if ``zeros`` is prescribed, because it counts the steps. Otherwise the
    forward passes clamp the parameters themselves. You then need it only if the forward passes see copies of the
    parameters that the optimiser changes (FSDP's shards, or a master copy in another precision), because the originals
    might stay negative.

    Args:
            model: A model that ``ternarize`` changed, sharded or not.

    Raises:
            InputError: If zeros are prescribed and the model is sharded.

    Examples:
            >>> import torch
            >>> from ttq_plugin import parameter_groups, project_, ternarize
            >>> model = ternarize(torch.nn.Sequential(torch.nn.Linear(16, 8)), ["0"], method="pttq")
            >>> optimizer = torch.optim.SGD(parameter_groups(model), lr=0.1)
            >>> model(torch.ones(2, 16)).sum().backward()
            >>> optimizer.step()
            >>> project_(model)
    """  # noqa: DOC502 - raised by what it calls
    check_types(project_, locals())
    courses = {}
    for state in states(model):
        state.project_()
        if (course := course_of(state)) is not None:
            courses[id(course)] = course
    for course in courses.values():
        course.step(lambda course=course: course_members(model, course))  # type: ignore[misc]


@torch.no_grad()
def bake(model: nn.Module) -> nn.Module:
    """Make a plain copy of the model whose ternary weights are exactly ``{-W_n, 0, +W_p}``; training can continue.

    If a share of zeros was prescribed, the copy has it to the nearest weight.

    Args:
        model: A model that ``ternarize`` changed, compiled or not; it is not changed.

    Returns:
        A deep copy without the parametrizations of ``ternarize``, in the model's mode (train or eval). Its state dict
        has the same keys in the same order as that of the model before ``ternarize``.

    Raises:
        InputError: If no layer is ternary, if a layer has further parametrizations, if the model is sharded, or if it
            is only a part of the model for which a share of zeros was prescribed.

    Examples:
        >>> import torch
        >>> from ttq_plugin import bake, ternarize
        >>> model = ternarize(torch.nn.Sequential(torch.nn.Linear(16, 8)), ["0"], method="pttq")
        >>> plain = bake(model)
        >>> list(plain.state_dict()), len(plain[0].weight.unique())
        (['0.weight', '0.bias'], 3)
    """
    check_types(bake, locals())
    model = plain_model(model)
    check_detachable(model)
    plain = copied(model)
    for course in {id(c): c for state in states(plain) if (c := course_of(state)) is not None}.values():
        for note in course.settle(course_members(plain, course)):
            warnings.warn(note, stacklevel=2)
    detach(plain)
    return plain


def _plain_names(model: nn.Module, layers: Iterable[str]) -> Iterable[str]:
    """Remove the prefix that ``torch.compile`` adds to the names of a wrapped model's modules."""
    if plain_model(model) is model or isinstance(layers, str):
        return layers
    return [name.removeprefix("_orig_mod.") if isinstance(name, str) else name for name in layers]


def plain_model(model: nn.Module) -> nn.Module:
    """The model that ``torch.compile`` has wrapped, or the model itself."""
    plain: nn.Module = getattr(model, "_orig_mod", model)
    return plain


def check_rate(name: str, value: float | None) -> float | None:
    """Check that a learning rate is valid.

    Args:
        name: The argument's name, for the message.
        value: The rate, or None for the optimiser's own.

    Returns:
        The value.

    Raises:
        InputError: If it is negative or not a number.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e6):
        raise InputError(f"{name} must be a number of at least 0, or None for the optimiser's own, got {shown(value)}.")
    return value
