"""Learning rates of their own for scales and thresholds, through NNI's recipes of the traced optimisers and schedulers.

NNI builds both anew for the wrapped model, from recorded recipes that name parameters. Groups added to the recipe
survive schedulers, Lightning and fusion, which groups added to a live optimiser do not. The scales and thresholds of a
layer join the optimiser that trains its weight. Schedulers scale each group's own rate; those that take one value a
group get theirs here:

- ``max_lr`` of OneCycleLR and CyclicLR replaces every group's rate, so scales and thresholds get their own rate as
  their maximum (CyclicLR's ``base_lr`` in the same proportion to it as for the weights);
- ``min_lr`` of ReduceLROnPlateau and ``swa_lr`` of SWALR, in the proportion of the rates;
- lists of lambdas or momenta are continued with their first value.

``eta_min`` of the cosine schedules cannot differ between groups in torch: it is one floor for all.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter.training.recipes import (
    Recipe,
    arguments_of,
    build,
    groups_of,
    name_of,
    optimizers_of,
    rehearse,
    schedulers_of,
)

_PER_GROUP = {
    "OneCycleLR": ("max_lr", "base_momentum", "max_momentum"),
    "CyclicLR": ("max_lr", "base_lr", "base_momentum", "max_momentum"),
    "ReduceLROnPlateau": ("min_lr",),
    "LambdaLR": ("lr_lambda",),
    "MultiplicativeLR": ("lr_lambda",),
    "SWALR": ("swa_lr",),
}
"""Arguments of torch's schedulers that are one value for all groups or a list of one value a group."""


@dataclass(frozen=True)
class NewGroup:
    """Parameters that a compressor added to several layers and that share their options.

    Attributes:
        names: Names of the parameters in the wrapped model, each with the name of its layer.
        options: The options of the optimiser's group, such as ``lr``.
    """

    names: Mapping[str, str]
    options: Mapping[str, Any]


def _added(name: str) -> bool:
    """Whether a compressor added this parameter, so that only the wrapped model has it."""
    return "_nni_wrapper" in name


def _own(group: Mapping[str, Any]) -> bool:
    """Whether ``add_groups`` made this group."""
    return bool(group["params"]) and ("ternary_attached" in group or all(_added(name) for name in group["params"]))


def check_optimizers(evaluator: Any, model: nn.Module) -> None:
    """Check that NNI can rebuild the evaluator's optimisers and schedulers for this model, and repair the recipes.

    NNI matches parameters by identity and drops those it does not find, so that an optimiser of another model object
    would train nothing, silently.

    Args:
        evaluator: An initialised NNI evaluator.
        model: The model it is to train, not wrapped.

    Raises:
        InputError: If a group has no parameter of this model, or an optimiser has parameters that are not in the model.
    """
    names = {name for name, _ in model.named_parameters()}
    for recipe in optimizers_of(evaluator):
        for index, group in enumerate(groups_of(recipe)):
            own = [name for name in group["params"] if not _added(name)]
            if not names & set(own) and (own or not group["params"]):
                raise InputError(
                    f"parameter group {index} of the optimiser ({name_of(recipe)}) holds no parameter of "
                    "this model: it was built for another model; build it for the model that is passed to the "
                    "quantizer."
                )
        if missing := getattr(recipe, "ttq_missing", []):
            raise InputError(
                f"the optimiser ({name_of(recipe)}) holds {len(missing)} parameters that are not of this model, the "
                f"first of shape {missing[0]}, which NNI would leave out of the training; make them part of the model, "
                "or build the optimiser on the model as it is now."
            )
    for recipe, index in schedulers_of(evaluator):
        if arguments_of(recipe).get("last_epoch", -1) == -1:
            _undo_first_step(groups_of(optimizers_of(evaluator)[index]))


def _undo_first_step(groups: list[dict[str, Any]]) -> None:
    """Give groups back the rates they were made with.

    Groups that the user passed as dicts are recorded as the live optimiser has them: after its scheduler's first step.
    The scheduler that NNI makes would take that step again (a linear warm-up from 0.1 would start at 0.01).
    """
    for group in groups:
        if "initial_lr" in group:
            group["lr"] = group.pop("initial_lr")


def add_groups(
    evaluator: Any, model: nn.Module, groups: Sequence[NewGroup], plain: Mapping[str, str]
) -> dict[str, int]:
    """Add parameter groups to the recipes of the optimisers that train their layers, and to those of its schedulers.

    Args:
        evaluator: An initialised NNI evaluator.
        model: The wrapped model; groups of an earlier compressor whose parameters it no longer has are dropped.
        groups: What to add; groups without names are skipped.
        plain: Names of the plain model's parameters in the wrapped one.

    Returns:
        The index of the optimiser that the parameters of each layer joined.

    Raises:
        InputError: If no optimiser that trains with a layer's weight can take what was added to the layer, or a
            scheduler cannot be built with these groups.
    """
    recipes = optimizers_of(evaluator)
    _drop_stale(recipes, model, {name for group in groups for name in group.names})
    homes = _homes(recipes, model, groups, plain)
    for group in groups:
        for index, recipe in enumerate(recipes):
            if names := [name for name, layer in group.names.items() if homes[layer] == index]:
                groups_of(recipe).append({"params": names, **group.options})
    for recipe, index in schedulers_of(evaluator):
        optimizer = recipes[index]
        _fit_scheduler(recipe, groups_of(optimizer), arguments_of(optimizer).get("lr", _default_rate(optimizer)))
    rehearse(evaluator, model, plain)
    return homes


def home_of(evaluator: Any, layer: str) -> int:
    """The index of the optimiser that trains a layer's weight, the first one's where none does.

    Args:
        evaluator: An initialised NNI evaluator.
        layer: The layer's name in the plain model.

    Returns:
        The index among the evaluator's optimisers.
    """
    return _holder(optimizers_of(evaluator), layer)


def untrained(evaluator: Any, layer: str) -> str | None:
    """Why a layer's weight does not train although it is not frozen.

    Args:
        evaluator: An initialised NNI evaluator, or None.
        layer: The layer's name in the plain model.

    Returns:
        A sentence if no optimiser holds it.
    """
    if evaluator is None or any(_holds(recipe, layer) for recipe in optimizers_of(evaluator)):
        return None
    return "its weight does not train, because no optimiser holds it; give it to one, or leave the layer out."


def _drop_stale(recipes: Sequence[Recipe], model: nn.Module, new: set[str]) -> None:
    """Leave out what an earlier compressor added and the model no longer has, and what is to be added now."""
    present = {name for name, _ in model.named_parameters()}
    for recipe in recipes:
        groups = groups_of(recipe)
        for group in list(groups):
            kept = [n for n in group["params"] if not _added(n) or (n in present and n not in new)]
            if len(kept) < len(group["params"]):
                group["params"] = kept
                if not kept:
                    groups.remove(group)


def _homes(
    recipes: Sequence[Recipe], model: nn.Module, groups: Sequence[NewGroup], plain: Mapping[str, str]
) -> dict[str, int]:
    """The index of the optimiser that each layer's new parameters join."""
    parts: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for group in groups:
        for name, layer in group.names.items():
            parts.setdefault(layer, []).append((name, group.options))
    holders: dict[int, list[str]] = {}
    for layer in parts:
        holders.setdefault(_holder(recipes, layer), []).append(layer)
    homes: dict[str, int] = {}
    for index, layers in holders.items():
        reason = _refusal(recipes[index], model, [part for layer in layers for part in parts[layer]], plain)
        for layer in layers:
            others = _near(recipes, layer, index) if reason else iter((index,))
            home = next((i for i in others if not reason or not _refusal(recipes[i], model, parts[layer], plain)), None)
            if home is None:
                raise InputError(
                    f"the optimiser {name_of(recipes[index])} trains the weight of {layer!r}, but cannot take its "
                    f"scales and thresholds ({reason}); use another optimiser, such as Adam, or one more that trains "
                    "the layer's bias."
                )
            homes[layer] = home
    return homes


def _near(recipes: Sequence[Recipe], layer: str, holder: int) -> Iterator[int]:
    """The optimisers that hold what lies near a layer in the model, nearest first, without the holder of its weight.

    Near is the layer itself, then each module around it, but the whole model only where the layer lies directly in it:
    an optimiser of another part of the model may follow another loss.

    Yields:
        Indices of optimisers.
    """
    parts = layer.split(".")
    seen = {holder}
    for count in range(len(parts), -1 if len(parts) == 1 else 0, -1):
        prefix = ".".join(parts[:count]) + "." if count else ""
        for index, recipe in enumerate(recipes):
            if index not in seen and any(n.startswith(prefix) for g in groups_of(recipe) for n in g["params"]):
                seen.add(index)
                yield index


def _holder(recipes: Sequence[Recipe], layer: str) -> int:
    """The index of the first optimiser that trains the weight of this layer or parametrization, else 0."""
    return next((index for index, recipe in enumerate(recipes) if _holds(recipe, layer)), 0)


def _holds(recipe: Recipe, layer: str) -> bool:
    weights = {f"{layer}.weight", f"{layer}.original"}
    return any(weights & set(group["params"]) for group in groups_of(recipe))


def _refusal(
    recipe: Recipe, model: nn.Module, new: Sequence[tuple[str, Mapping[str, Any]]], plain: Mapping[str, str]
) -> str:
    """Why this optimiser cannot take these parameters, empty if it can."""
    groups = groups_of(recipe)
    kept = list(groups)
    try:
        groups += [{"params": [name], **options} for name, options in new]
        optimizer, reason = build(recipe, model, plain)
    finally:
        groups[:] = kept
    return "" if optimizer is not None else reason


def _default_rate(optimizer: Recipe) -> float | None:
    parameter = inspect.signature(optimizer.callable_obj).parameters.get("lr")
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def _fit_scheduler(helper: Recipe, groups: Sequence[Mapping[str, Any]], default_rate: float | None) -> None:
    """Continue the scheduler's per-group arguments for the groups that ``add_groups`` made."""
    # Always from what the user gave: groups come and go with compressors.
    given = helper.__dict__.setdefault("ttq_given", arguments_of(helper))
    own = [group for group in groups if _own(group)]
    kinds = [kind.__name__ for kind in helper.callable_obj.__mro__ if kind.__module__.startswith("torch.optim.")]
    names = [name for kind in kinds for name in _PER_GROUP.get(kind, ()) if name in given]
    if not names:
        return
    reference = _values(given["max_lr"])[0] if "max_lr" in given else groups[0].get("lr", default_rate)
    fitted = dict(given)
    for name in names:
        values = _values(given[name], len(groups) - len(own))
        shares = [1.0] * len(own)
        if name.endswith("_lr") and reference:
            shares = [group.get("lr", reference) / reference for group in own]
        fitted[name] = values + [values[0] * share if share != 1 else values[0] for share in shares]
    helper.args, helper.kwargs = [], {**fitted, "optimizer": None}


def _values(value: Any, count: int = 1) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value] * count
