"""NNI's recipes of traced optimisers and schedulers, from which it rebuilds both for the wrapped model."""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Mapping
from typing import Any

from nni.compression.utils.constructor_helper import OptimizerConstructHelper
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ttq_plugin.errors import InputError

Recipe = Any
"""NNI's ``OptimizerConstructHelper`` or ``LRSchedulerConstructHelper``: a class and the arguments of its call."""


def optimizers_of(evaluator: Any) -> list[Recipe]:
    """The recipes of an evaluator's optimisers; TransformersEvaluator has one, under another name."""
    return getattr(evaluator, "_optimizer_helpers", None) or [evaluator._optimizer_helper]


def schedulers_of(evaluator: Any) -> list[tuple[Recipe, int]]:
    """The recipes of an evaluator's schedulers, each with the index of its optimiser."""
    if hasattr(evaluator, "_lr_scheduler_helper"):
        return [(evaluator._lr_scheduler_helper, 0)] if evaluator._lr_scheduler_helper is not None else []
    return [(recipe, evaluator._lrs_opt_map[i]) for i, recipe in enumerate(evaluator._lr_scheduler_helpers)]


def arguments_of(recipe: Recipe) -> dict[str, Any]:
    """The recorded arguments by name."""
    return dict(inspect.signature(recipe.callable_obj).bind_partial(*recipe.args, **recipe.kwargs).arguments)


def groups_of(recipe: Recipe) -> list[dict[str, Any]]:
    """The recorded parameter groups of an optimiser, whose ``params`` are names."""
    groups: list[dict[str, Any]] = recipe.kwargs["params"] if "params" in recipe.kwargs else recipe.args[0]
    return groups


def name_of(recipe: Recipe) -> str:
    """The name of the class that the recipe builds."""
    name: str = recipe.callable_obj.__name__
    return name


def check_whole(name: str, arguments: Mapping[str, Any]) -> None:
    """Check that NNI can rebuild a scheduler: that it finds its optimiser, and that no part of it holds another.

    Args:
        name: Name of the scheduler's class.
        arguments: The arguments of its call, by name.

    Raises:
        InputError: If it cannot.
    """
    for value in arguments.values():
        if any(isinstance(item, LRScheduler) for item in (value if isinstance(value, (list, tuple)) else [value])):
            raise InputError(
                f"NNI cannot build {name} anew, because its parts hold the old optimiser; write the schedule as one "
                "LambdaLR."
            )
    if "optimizer" not in arguments:
        raise InputError(
            f"NNI finds a scheduler's optimiser by the name optimizer, got {name}, which takes "
            f"{', '.join(arguments) or 'nothing'}; call that argument optimizer."
        )


def record(model: nn.Module, optimizer: Optimizer) -> OptimizerConstructHelper:
    """The recipe of a traced optimiser; stands in for NNI's ``OptimizerConstructHelper.from_trace``.

    NNI reads the arguments again, of which an iterator (``filter``) is used up by then, ``named_parameters()`` are no
    parameters, and groups that were added later are missing; and it writes names into the optimiser's own groups.

    Args:
        model: The model whose parameters the optimiser trains, not wrapped.
        optimizer: Made by a class that ``nni.trace`` wrapped.

    Returns:
        The recipe; its attribute ``ttq_missing`` lists the shapes of parameters that the model does not have, and
        ``ttq_given`` is the ``Given`` of the optimiser.
    """
    args, kwargs = list(optimizer.trace_args), dict(optimizer.trace_kwargs)  # type: ignore[attr-defined]
    groups = _groups(kwargs["params"] if "params" in kwargs else args[0], optimizer)
    if "params" in kwargs:
        kwargs["params"] = groups
    else:
        args[0] = groups
    own = {id(parameter) for parameter in model.parameters()}
    recipe = OptimizerConstructHelper(model, optimizer.trace_symbol, *args, **kwargs)  # type: ignore[attr-defined]
    recipe.ttq_missing = [
        tuple(parameter.shape)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if id(parameter) not in own
    ]
    recipe.ttq_given = Given(optimizer)
    return recipe


class Given:
    """The parameters that a user's optimiser had when its recipe was written; copies and pickles of it know of none."""

    def __init__(self, optimizer: Optimizer | None = None) -> None:
        self.optimizer = (lambda: None) if optimizer is None else weakref.ref(optimizer)
        self.parameters = _parameters(optimizer)

    def added(self) -> int:
        """How many parameters the optimiser was given since then."""
        return len(_parameters(self.optimizer()) - self.parameters)

    def __reduce__(self) -> tuple[type[Given], tuple[()]]:
        return Given, ()


def _parameters(optimizer: Optimizer | None) -> set[int]:
    return {id(parameter) for group in getattr(optimizer, "param_groups", ()) for parameter in group["params"]}


def check_groups_of_old(evaluator: Any) -> None:
    """Check that no parameters were added to the user's optimisers of which NNI's own ones would not know.

    Args:
        evaluator: An initialised NNI evaluator.

    Raises:
        InputError: If there were.
    """
    for recipe in optimizers_of(evaluator):
        if count := getattr(recipe, "ttq_given", Given()).added():
            raise InputError(
                f"the optimiser ({name_of(recipe)}) was given {count} parameters after the evaluator was used, which "
                "NNI's own one would not train; give it all parameters before, or make the evaluator and the "
                "compressor anew."
            )


def _groups(given: Any, optimizer: Optimizer) -> list[Any]:
    """What the optimiser was given, from its live groups: a list of parameters, or of groups with their options."""
    live = optimizer.param_groups
    listed = isinstance(given, (list, tuple)) and bool(given)
    if listed and not isinstance(given[0], dict) and len(live) == 1:
        return list(live[0]["params"])
    asked: list[Mapping[str, Any]] = list(given) if listed and isinstance(given[0], dict) else []
    groups = []
    for index, group in enumerate(live):
        kept = asked[index] if index < len(asked) else _own_options(group, optimizer.defaults)
        rest = {key: value for key, value in kept.items() if key not in ("params", "param_names")}
        groups.append({**rest, "params": list(group["params"])})
    return groups


def _own_options(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """How a live group differs from the optimiser's defaults, before a scheduler's first step."""
    made = {**group, "lr": group.get("initial_lr", group.get("lr"))}
    return {key: made[key] for key, default in defaults.items() if key in made and made[key] is not default}


def rehearse(evaluator: Any, model: nn.Module, names: Mapping[str, str]) -> None:
    """Build every optimiser and scheduler once, as a training would, and throw them away.

    Args:
        evaluator: An initialised NNI evaluator.
        model: The wrapped model.
        names: Names of the plain model's parameters in the wrapped one.

    Raises:
        InputError: If one cannot be built.
    """
    optimizers = []
    for recipe in optimizers_of(evaluator):
        optimizer, reason = build(recipe, model, names)
        if optimizer is None:
            raise InputError(f"the optimiser {name_of(recipe)} cannot be built for this model ({reason}).")
        optimizers.append(optimizer)
    for recipe, index in schedulers_of(evaluator):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                recipe.call(optimizers[index])
            except Exception as error:
                raise InputError(
                    f"the scheduler {name_of(recipe)} cannot be built for an optimiser that also has groups for "
                    f"scales and thresholds ({_first_line(error)}); write the schedule as one LambdaLR."
                ) from error


def build(recipe: Recipe, model: nn.Module, names: Mapping[str, str]) -> tuple[Optimizer | None, str]:
    """Build an optimiser from its recipe.

    Args:
        recipe: Recipe of the optimiser.
        model: The wrapped model.
        names: Names of the plain model's parameters in the wrapped one.

    Returns:
        The optimiser, or None and the reason why it cannot be built.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return recipe.call(model, dict(names)), ""
        except Exception as error:
            return None, _first_line(error)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
