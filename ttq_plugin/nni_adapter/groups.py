"""Learning rates of their own for scales and thresholds, through NNI's recipe of the traced optimiser.

NNI builds the optimiser anew for the wrapped model from a recorded recipe that names parameters. Groups added to that
recipe survive schedulers, Lightning and fusion, which groups added to a live optimiser do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ttq_plugin.errors import InputError


def _groups(helper: Any) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = helper.kwargs["params"] if "params" in helper.kwargs else helper.args[0]
    return groups


def _added(name: str) -> bool:
    """Whether a compressor added this parameter, so that only the wrapped model has it."""
    return "_nni_wrapper" in name


def check_optimizers(evaluator: Any, model: nn.Module) -> None:
    """Check that every parameter group of the evaluator's optimisers belongs to this model.

    NNI matches parameters by identity and drops those it does not find, so that an optimiser of another model object
    would train nothing, silently.

    Args:
        evaluator: an initialised NNI evaluator.
        model: the model it is to train, not wrapped.

    Raises:
        InputError: if a group has no parameter of this model.
    """
    names = {name for name, _ in model.named_parameters()}
    for helper in evaluator._optimizer_helpers:
        for index, group in enumerate(_groups(helper)):
            own = [name for name in group["params"] if not _added(name)]
            if not names & set(own) and (own or not group["params"]):
                raise InputError(
                    f"parameter group {index} of the optimiser ({helper.callable_obj.__name__}) holds no parameter of "
                    "this model: it was built on another one; build it on the model that is passed to the quantizer."
                )


def add_groups(evaluator: Any, model: nn.Module, groups: Sequence[tuple[Sequence[str], Mapping[str, Any]]]) -> None:
    """Add parameter groups, by name, to the recipe of the first optimiser.

    Args:
        evaluator: an initialised NNI evaluator.
        model: the wrapped model; groups of an earlier compressor whose parameters it no longer has are dropped.
        groups: pairs of parameter names in the wrapped model and options such as ``lr``; empty ones are skipped.
    """
    recipe = _groups(evaluator._optimizer_helpers[0])
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
