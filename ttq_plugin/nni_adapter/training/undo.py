"""Restores a model after a constructor or a training failed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any

import torch
from nni.compression.base.wrapper import ModuleWrapper
from nni.compression.utils import Evaluator
from torch import nn

from ttq_plugin.nni_adapter.training.recipes import optimizers_of, schedulers_of


@contextmanager
def unchanged_on_failure(
    model: nn.Module, evaluator: Evaluator | None, wrappers: Iterable[ModuleWrapper] = ()
) -> Iterator[None]:
    """Put a model, its wrappers and an evaluator's recipes back to what they are now if the block raises.

    The same parameter objects, hooks and settings are restored, not their values, so nothing in the block may train.

    Args:
        model: The model, wrapped or not.
        evaluator: NNI's, initialised or not.
        wrappers: Wrappers of earlier compressors that the model may not show now.

    Yields:
        Nothing.
    """
    modules = {id(module): module for module in (*model.modules(), *wrappers)}
    before = [(m, type(m), {key: _content(value) for key, value in vars(m).items()}) for m in modules.values()]
    recipes = _recipes(evaluator)
    kept = [(recipe, deepcopy(recipe.args), deepcopy(recipe.kwargs)) for recipe in recipes]
    try:
        yield
    except BaseException:
        for module, kind, attributes in before:
            vars(module).clear()
            module.__class__ = kind
            vars(module).update({key: _restored(*pair) for key, pair in attributes.items()})
        for recipe, args, kwargs in kept:
            recipe.args, recipe.kwargs = args, kwargs
        raise


def _recipes(evaluator: Any) -> list[Any]:
    if evaluator is None or not evaluator._initialization_complete:
        return []
    return [*optimizers_of(evaluator), *(recipe for recipe, _ in schedulers_of(evaluator))]


def _content(value: Any) -> tuple[Any, Any]:
    """A value and, of a container that may be changed in place, what is in it."""
    return value, value.copy() if isinstance(value, (dict, list, set)) else None


def _restored(value: Any, content: Any) -> Any:
    if content is not None:
        value.clear()
        (value.extend if isinstance(value, list) else value.update)(content)
    return value


class Originals:
    """A model's own parameters, to give them back to its layers when they are unwrapped: NNI makes new ones.

    Args:
        model: The model, not wrapped. Parameters that nobody else holds are not kept alive.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters: dict[nn.Module, dict[str, Callable[[], nn.Parameter | None]]] = {
            module: {key: weakref.ref(value) for key, value in module._parameters.items() if value is not None}
            for module in model.modules()
        }
        self._own_forward = {module for module in model.modules() if "forward" in vars(module)}

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: their layers keep the parameters they get there, in the order of these."""
        gone = {module: dict.fromkeys(known, _gone) for module, known in self._parameters.items()}
        return {"_parameters": gone, "_own_forward": self._own_forward}

    @torch.no_grad()
    def give_back(self, wrappers: Mapping[str, ModuleWrapper]) -> None:
        """Let unwrapped layers hold the parameters that they had, with today's values and in their order.

        Args:
            wrappers: The wrappers of the layers.
        """
        for wrapper in wrappers.values():
            module: nn.Module = wrapper.module
            known = self._parameters.get(module, {})
            now = module._parameters
            for key, reference in known.items():
                original, new = reference(), now.get(key)
                if original is not None and new is not None and original is not new:
                    original.data = new.data  # wherever the model was moved, and in whatever precision
                    now[key] = original
            if module in self._parameters and module not in self._own_forward:
                vars(module).pop("forward", None)  # NNI leaves the class's own behind
            module._parameters = {key: now[key] for key in dict.fromkeys((*(k for k in known if k in now), *now))}


def _gone() -> None:
    """No parameter: a copy's layers must never get those of the model that was copied."""


def release(evaluator: Any) -> None:
    """Release the model after a failed training, however far it got.

    Args:
        evaluator: NNI's, which may have bound the model.
    """
    with suppress(Exception):
        evaluator.unbind_model()
    # NNI's own way out fails where the optimisers were not made yet.
    evaluator.model = None
