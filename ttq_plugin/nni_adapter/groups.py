"""Learning rates of their own for scales and thresholds, through NNI's recipes of the traced optimiser and schedulers.

NNI builds both anew for the wrapped model, from recorded recipes that name parameters. Groups added to the recipe
survive schedulers, Lightning and fusion, which groups added to a live optimiser do not. Schedulers scale each group's
own rate; those that take one value a group get theirs here:

- ``max_lr`` of OneCycleLR and CyclicLR replaces every group's rate, so scales and thresholds get their own rate as
  their maximum (CyclicLR's ``base_lr`` in the same proportion to it as for the weights);
- ``min_lr`` of ReduceLROnPlateau, in the proportion of the rates;
- lists of lambdas or momenta are continued with their first value.

``eta_min`` of the cosine schedules cannot differ between groups in torch: it is one floor for all.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ttq_plugin.errors import InputError

_PER_GROUP = {
    "OneCycleLR": ("max_lr", "base_momentum", "max_momentum"),
    "CyclicLR": ("max_lr", "base_lr", "base_momentum", "max_momentum"),
    "ReduceLROnPlateau": ("min_lr",),
    "LambdaLR": ("lr_lambda",),
    "MultiplicativeLR": ("lr_lambda",),
}
"""Arguments of torch's schedulers that are one value for all groups or a list of one value a group."""


def _optimizers(evaluator: Any) -> list[Any]:
    # TransformersEvaluator has one, under another name.
    return getattr(evaluator, "_optimizer_helpers", None) or [evaluator._optimizer_helper]


def _schedulers(evaluator: Any) -> list[Any]:
    """Recipes of the schedulers of the first optimiser, which is the one that gets the groups."""
    if hasattr(evaluator, "_lr_scheduler_helper"):
        return [evaluator._lr_scheduler_helper] if evaluator._lr_scheduler_helper is not None else []
    return [h for i, h in enumerate(evaluator._lr_scheduler_helpers) if evaluator._lrs_opt_map[i] == 0]


def _arguments(helper: Any) -> dict[str, Any]:
    """The recorded arguments by name."""
    return dict(inspect.signature(helper.callable_obj).bind_partial(*helper.args, **helper.kwargs).arguments)


def _groups(helper: Any) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = helper.kwargs["params"] if "params" in helper.kwargs else helper.args[0]
    return groups


def _added(name: str) -> bool:
    """Whether a compressor added this parameter, so that only the wrapped model has it."""
    return "_nni_wrapper" in name


def _own(group: Mapping[str, Any]) -> bool:
    """Whether ``add_groups`` made this group."""
    return bool(group["params"]) and all(_added(name) for name in group["params"])


def check_optimizers(evaluator: Any, model: nn.Module) -> None:
    """Check that NNI can build the evaluator's optimisers and schedulers anew for this model, and repair the recipes.

    NNI matches parameters by identity and drops those it does not find, so that an optimiser of another model object
    would train nothing, silently.

    Args:
        evaluator: an initialised NNI evaluator.
        model: the model it is to train, not wrapped.

    Raises:
        InputError: if a group has no parameter of this model, or a scheduler is made of other schedulers.
    """
    names = {name for name, _ in model.named_parameters()}
    for helper in _optimizers(evaluator):
        for index, group in enumerate(_groups(helper)):
            own = [name for name in group["params"] if not _added(name)]
            if not names & set(own) and (own or not group["params"]):
                raise InputError(
                    f"parameter group {index} of the optimiser ({helper.callable_obj.__name__}) holds no parameter of "
                    "this model: it was built on another one; build it on the model that is passed to the quantizer."
                )
    for helper in _schedulers(evaluator):
        _check_scheduler(helper)
        if _arguments(helper).get("last_epoch", -1) == -1:
            _undo_first_step(_groups(_optimizers(evaluator)[0]))


def _check_scheduler(helper: Any) -> None:
    for value in _arguments(helper).values():
        if any(isinstance(item, LRScheduler) for item in (value if isinstance(value, (list, tuple)) else [value])):
            raise InputError(
                f"NNI cannot build {helper.callable_obj.__name__} anew, because its parts hold the old optimiser; "
                "write the schedule as one LambdaLR."
            )


def _undo_first_step(groups: list[dict[str, Any]]) -> None:
    """Give groups back the rates they were made with.

    Groups that the user passed as dicts are recorded as the live optimiser has them: after its scheduler's first step.
    The scheduler that NNI makes would take that step again (a linear warm-up from 0.1 would start at 0.01).
    """
    for group in groups:
        if "initial_lr" in group:
            group["lr"] = group.pop("initial_lr")


def add_groups(evaluator: Any, model: nn.Module, groups: Sequence[tuple[Sequence[str], Mapping[str, Any]]]) -> None:
    """Add parameter groups, by name, to the recipe of the first optimiser, and to those of its schedulers.

    Args:
        evaluator: an initialised NNI evaluator.
        model: the wrapped model; groups of an earlier compressor whose parameters it no longer has are dropped.
        groups: pairs of parameter names in the wrapped model and options such as ``lr``; empty ones are skipped.
    """
    optimizer = _optimizers(evaluator)[0]
    recipe = _groups(optimizer)
    present = {name for name, _ in model.named_parameters()}
    new = {name for names, _ in groups for name in names}
    for group in list(recipe):
        kept = [n for n in group["params"] if not _added(n) or (n in present and n not in new)]
        if len(kept) < len(group["params"]):
            group["params"] = kept
            if not kept:
                recipe.remove(group)
    for names, options in groups:
        if names:
            recipe.append({"params": list(names), **options})
    for helper in _schedulers(evaluator):
        _fit_scheduler(helper, recipe, _arguments(optimizer).get("lr", _default_rate(optimizer)))


def _default_rate(optimizer: Any) -> float | None:
    parameter = inspect.signature(optimizer.callable_obj).parameters.get("lr")
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def _fit_scheduler(helper: Any, groups: Sequence[Mapping[str, Any]], default_rate: float | None) -> None:
    """Continue the scheduler's per-group arguments for the groups that ``add_groups`` made."""
    # Always from what the user gave: groups come and go with compressors.
    given = helper.__dict__.setdefault("ttq_given", _arguments(helper))
    own = [group for group in groups if _own(group)]
    kinds = [kind.__name__ for kind in helper.callable_obj.__mro__ if kind.__module__ == LRScheduler.__module__]
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
