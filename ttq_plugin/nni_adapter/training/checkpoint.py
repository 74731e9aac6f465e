"""Checkpoints, from which a training resumes as if it had never stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from nni.compression.utils import Evaluator, TorchEvaluator
from torch import Tensor

from ttq_plugin.core import Ternarizer
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter.training.checkpoint_file import read_checkpoint, write_checkpoint
from ttq_plugin.nni_adapter.training.recipes import build, name_of, optimizers_of, schedulers_of

FORMAT = "ttq-checkpoint-2"
_ONLY_AT_FIRST = {"on_empty", "scale_init"}
"""Options that have no effect on a resumed training."""
_LIKE_PARAMETER = {"exp_avg", "exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "sum"}
"""Tensors in torch's optimisers that have the shape of their parameter."""
_KEYS = {"format", "method", "options", "steps", "model", "training"}
_TRAINING_KEYS = {"optimizers", "schedulers", "random"}


class Checkpointed:
    """State of a compressor's training, as a value and as a file.

    NNI builds new optimisers and schedulers in each ``compress``; their state is kept here when a training ends, and
    loaded into the new ones when it continues from a checkpoint.
    """

    bound_model: torch.nn.Module
    wrap_model: Callable[[], None]
    unwrap_model: Callable[[], None]
    _get_param_names_map: Callable[[], dict[str, str]]
    _is_wrapped: bool
    evaluator: Evaluator | None
    fused_compressors: list[Any]
    steps: int = 0
    _training: dict[str, Any] | None = None
    _pending: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a training needs to continue: weights, learned parameters, optimiser, scheduler, random state.

        Returns:
            Tensors, numbers, strings, lists and dicts only, so that ``torch.load(..., weights_only=True)`` takes it.
            Inside a training loop it is the state of that moment: take it after the epoch's scheduler step.
        """
        training = _training_state(self.evaluator, self.bound_model) or self._training or self._pending
        with self._wrapped():
            model = {name: value.detach().clone() for name, value in self.bound_model.state_dict().items()}
        return {
            "format": FORMAT,
            "method": getattr(self, "method_name", ""),
            "options": self._options(),
            "steps": self.steps,
            "model": model,
            "training": training,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state; the next ``compress`` continues from it.

        Args:
            state: What ``state_dict`` returned on a compressor built in the same way.

        Raises:
            InputError: If it is not such a state, or belongs to another method, option, model, layers, optimiser or
                scheduler; nothing is changed then.
        """
        with self._wrapped():
            own = self.bound_model.state_dict()
            self._check(state, own)
            with torch.no_grad():
                for name, value in own.items():
                    value.copy_(state["model"][name])
        self.steps = state["steps"]
        self._training, self._pending = state["training"], state["training"]

    def save_checkpoint(self, path: str | Path) -> None:
        """Write ``state_dict()`` to a file, whole or not at all: a crash leaves the old file.

        Args:
            path: The file.
        """
        write_checkpoint(self.state_dict(), Path(path))

    def load_checkpoint(self, path: str | Path) -> None:
        """Load the state in a file; no code in it is ever run.

        Args:
            path: The file that ``save_checkpoint`` wrote.

        Raises:
            InputError: If it is missing, damaged, or does not match; nothing is changed then.
        """
        self.load_state_dict(read_checkpoint(Path(path)))

    @contextmanager
    def _wrapped(self) -> Iterator[None]:
        """The model as it is in training; a training that failed has left it unwrapped."""
        wrapped = self._is_wrapped
        if not wrapped:
            self.wrap_model()
        try:
            yield
        finally:
            if not wrapped:
                self.unwrap_model()

    def _options(self) -> list[dict[str, Any]]:
        """The method and options of each of this plugin's compressors that train together."""
        compressors = (c for c in self.fused_compressors if isinstance(c, Checkpointed))
        return [{"compressor": type(c).__name__, **_plain(c.method)} for c in compressors]  # type: ignore[attr-defined]

    def _check(self, state: Any, own: dict[str, Any]) -> None:
        """Check all of a state that is to be loaded."""
        if not isinstance(state, dict) or state.get("format") != FORMAT or set(state) != _KEYS:
            raise InputError(f"this is not a checkpoint of this version ({FORMAT}); state_dict() makes one.")
        if state["method"] != getattr(self, "method_name", ""):
            raise InputError(
                f"the checkpoint belongs to {state['method']!r}, not to {getattr(self, 'method_name', '')!r}."
            )
        _check_options(state["options"], self._options())
        if isinstance(state["steps"], bool) or not isinstance(state["steps"], int) or state["steps"] < 0:
            raise InputError(f"the checkpoint's steps must be a number of at least 0, got {state['steps']!r}.")
        model = state["model"] if isinstance(state["model"], dict) else {}
        if different := sorted(set(own) ^ set(model)) or [k for k in own if not _alike(own[k], model[k])]:
            raise InputError(
                f"the checkpoint does not fit this model and config list, which differ in {different[0]!r}; build "
                f"the compressor as for the checkpoint."
            )
        if state["training"] is not None:
            _check_training(state["training"])
            if self.evaluator is not None:
                self._rehearse(state["training"], self.evaluator)

    def _rehearse(self, training: dict[str, Any], evaluator: Any) -> None:
        """Load the states of optimisers and schedulers into some that are built for this and thrown away."""
        if not isinstance(evaluator, TorchEvaluator):
            raise InputError(
                "a checkpoint's optimiser state can be restored with NNI's TorchEvaluator only; other evaluators make "
                "their optimisers in their own trainer: use its checkpoints."
            )
        recipes, schedules = optimizers_of(evaluator), schedulers_of(evaluator)
        for what, kept, here in (
            ("optimisers", training["optimizers"], [name_of(recipe) for recipe in recipes]),
            ("schedulers", training["schedulers"], [name_of(recipe) for recipe, _ in schedules]),
        ):
            if (found := [entry["kind"] for entry in kept]) != here:
                raise InputError(
                    f"the checkpoint's {what} are {', '.join(found) or 'none'}, the evaluator's "
                    f"{', '.join(here) or 'none'}; build the evaluator as for the checkpoint."
                )
        names = self._get_param_names_map()
        made = [build(recipe, self.bound_model, names)[0] for recipe in recipes]
        for optimizer, entry in zip(made, training["optimizers"], strict=True):
            _check_names(_names(optimizer, self.bound_model), entry)
        targets = [*made, *(recipe.call(made[index]) for recipe, index in schedules)]
        for target, entry in zip(targets, [*training["optimizers"], *training["schedulers"]], strict=True):
            _check_fits(target, entry)

    def _keep_training(self, evaluator: Evaluator) -> None:
        """Called when a training ends, before NNI drops its optimisers."""
        self._training = _training_state(evaluator, self.bound_model)

    def _restore_training(self, evaluator: Any) -> None:
        """Called when a training begins, after NNI built its optimisers."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        live = [*evaluator._optimizers, *(evaluator._lr_schedulers or [])]
        for target, entry in zip(live, [*pending["optimizers"], *pending["schedulers"]], strict=True):
            target.load_state_dict(deepcopy(entry["state"]))
        _set_random_state(pending["random"])


def _plain(method: Ternarizer) -> dict[str, Any]:
    """A method's numbers and options in the types that a checkpoint may hold."""
    values = {f.name: getattr(method, f.name) for f in fields(method) if f.name not in _ONLY_AT_FIRST}
    numbers = dict(values.pop("t"))
    if method.zeros is None:  # as checkpoints were before there was such an option
        del values["zeros"], values["zeros_steps"]
    return {k: v for k, v in values.items() if isinstance(v, (str, bool, int, float, type(None)))} | numbers


def _check_options(found: Any, own: list[dict[str, Any]]) -> None:
    if not isinstance(found, list) or not all(isinstance(options, dict) for options in found) or len(found) != len(own):
        raise InputError(
            f"the checkpoint belongs to other compressors than {', '.join(o['compressor'] for o in own)}; build them "
            "as for the checkpoint."
        )
    for theirs, ours in zip(found, own, strict=True):
        for key in (*ours, *theirs):
            if theirs.get(key) != ours.get(key) or (key in theirs) != (key in ours):
                raise InputError(
                    f"the checkpoint was made with {key} = {theirs.get(key)!r}, this compressor has "
                    f"{ours.get(key)!r}; build it as for the checkpoint."
                )


def _alike(own: Any, other: Any) -> bool:
    return isinstance(other, Tensor) and own.shape == other.shape and own.dtype is other.dtype


def _check_training(training: Any) -> None:
    """The form of a training's state, whatever it is to be loaded into."""
    try:
        entries = [*training["optimizers"], *training["schedulers"]]
        whole = set(training) == _TRAINING_KEYS and all(
            isinstance(entry["kind"], str) and isinstance(entry["state"], dict) and _are_names(entry.get("names", []))
            for entry in entries
        )
        torch.Generator().set_state(training["random"]["cpu"])
        whole = whole and all(isinstance(state, Tensor) for state in training["random"]["cuda"])
    except (TypeError, KeyError, RuntimeError):
        whole = False
    if not whole:
        raise InputError("the checkpoint's optimiser state is not complete; take another checkpoint.")


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(g, list) and all(isinstance(n, str) for n in g) for g in value)


def _check_fits(target: Any, entry: dict[str, Any]) -> None:
    """Check that a state fits an optimiser or scheduler, which is spoilt by that."""
    reason, own = "", deepcopy(target.state_dict())
    try:
        if missing := set(own) - set(entry["state"]):
            reason = f"it lacks {min(missing)}"
        target.load_state_dict(deepcopy(entry["state"]))
        for mine, theirs in zip(own.get("param_groups", ()), entry["state"].get("param_groups", ()), strict=True):
            if different := set(mine) ^ set(theirs):
                reason = f"a parameter group differs in {min(different)}"
        for parameter, values in getattr(target, "state", {}).items():
            for key, value in values.items():
                if key in _LIKE_PARAMETER and value.shape != parameter.shape:
                    reason = f"{key} has shape {tuple(value.shape)}, its parameter {tuple(parameter.shape)}"
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if reason:
        raise InputError(
            f"the checkpoint's state of {entry['kind']} does not fit the evaluator's ({reason.rstrip('.')}); build "
            "compressor and evaluator as for the checkpoint."
        )


def _training_state(evaluator: Any, model: torch.nn.Module) -> dict[str, Any] | None:
    """States of the evaluator's live optimisers and schedulers; None while it has none."""
    if not getattr(evaluator, "_optimizers", None):
        return None
    return {
        "optimizers": [_entry(live) | {"names": _names(live, model)} for live in evaluator._optimizers],
        "schedulers": [_entry(live) for live in evaluator._lr_schedulers or []],
        "random": _random_state(),
    }


def _entry(live: Any) -> dict[str, Any]:
    return {"kind": type(live).__name__, "state": deepcopy(live.state_dict())}


def _names(optimizer: Any, model: torch.nn.Module) -> list[list[str]]:
    """The names of each group's parameters, which alone distinguish equal layers."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names.get(id(p), "") for p in group["params"]] for group in optimizer.param_groups]


def _check_names(own: list[list[str]], entry: dict[str, Any]) -> None:
    """Check that a state is for the same parameters in the same order; older checkpoints do not record this."""
    found = entry.get("names", own)
    if [len(group) for group in found] != [len(group) for group in own]:
        return  # torch reports this itself
    for theirs, ours in zip(chain.from_iterable(found), chain.from_iterable(own), strict=True):
        if theirs != ours:
            raise InputError(
                f"the checkpoint's state of {entry['kind']} is that of {theirs!r} where the evaluator's optimiser has "
                f"{ours!r}; pass the parameters to it in the checkpoint's order."
            )


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.random.get_rng_state(), "cuda": cuda}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.random.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
