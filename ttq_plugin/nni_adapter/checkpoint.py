"""Checkpoints: a training stopped and resumed goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from nni.compression.utils import Evaluator

from ttq_plugin.errors import InputError
from ttq_plugin.files import write_whole

FORMAT = "ttq-checkpoint-1"


class Checkpointed:
    """State of a compressor's training, as a value and as a file.

    NNI builds optimisers and schedulers anew in each ``compress``; their state is kept here when a training ends, and
    put into the new ones when it goes on from a checkpoint.
    """

    bound_model: torch.nn.Module
    wrap_model: Callable[[], None]
    unwrap_model: Callable[[], None]
    _is_wrapped: bool
    evaluator: Evaluator | None
    steps: int = 0
    _training: dict[str, Any] | None = None
    _pending: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Everything a training needs to go on: latent weights, scales, thresholds, optimiser, scheduler, step, random.

        Returns:
            Tensors, numbers, strings, lists and dicts only, so that ``torch.load(..., weights_only=True)`` takes it.
            Inside a training loop it is the state of that moment: take it after the epoch's scheduler step.
        """
        training = _training_state(self.evaluator) or self._training or self._pending
        with self._wrapped():
            model = {name: value.detach().clone() for name, value in self.bound_model.state_dict().items()}
        return {
            "format": FORMAT,
            "method": getattr(self, "method_name", ""),
            "steps": self.steps,
            "model": model,
            "training": training,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state; the next ``compress`` goes on from it.

        Args:
            state: what ``state_dict`` returned on a compressor built in the same way.

        Raises:
            InputError: if it is no such state, of another method, or of other layers; nothing is changed then.
        """
        with self._wrapped():
            self._load(state)

    def _load(self, state: dict[str, Any]) -> None:
        own = self.bound_model.state_dict()
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise InputError(f"this is not a checkpoint of this version ({FORMAT}); state_dict() makes one.")
        if state["method"] != getattr(self, "method_name", ""):
            raise InputError(f"the checkpoint is of {state['method']!r}, not of {getattr(self, 'method_name', '')!r}.")
        model = state["model"]
        if different := sorted(set(own) ^ set(model)) or [k for k in own if own[k].shape != model[k].shape]:
            raise InputError(
                f"the checkpoint does not fit this model and config list, they differ in {different[0]!r}; build the "
                "compressor as it was built then."
            )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(model[name])
        self.steps = state["steps"]
        self._training, self._pending = state["training"], state["training"]

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

    def save_checkpoint(self, path: str | Path) -> None:
        """Write ``state_dict()`` to a file, whole or not at all: a crash leaves the old file.

        Args:
            path: the file.
        """
        state = self.state_dict()
        write_whole(Path(path), lambda temporary: torch.save(state, temporary))

    def load_checkpoint(self, path: str | Path) -> None:
        """Take up the state in a file; no code in it is ever run.

        Args:
            path: the file that ``save_checkpoint`` wrote.

        Raises:
            InputError: if it is missing, damaged, or does not fit.
        """
        try:
            state = torch.load(Path(path), weights_only=True, map_location="cpu")
        except FileNotFoundError:
            raise InputError(f"the checkpoint {path} does not exist.") from None
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"the checkpoint {path} is damaged or not one ({reason}).") from None
        self.load_state_dict(state)

    def _keep_training(self, evaluator: Evaluator) -> None:
        """Called when a training ends, before NNI drops its optimisers."""
        self._training = _training_state(evaluator)

    def _restore_training(self, evaluator: Evaluator) -> None:
        """Called when a training begins, after NNI built its optimisers."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        optimizers = getattr(evaluator, "_optimizers", None)
        if optimizers is None:
            raise InputError(
                "a checkpoint's optimiser state can be restored with NNI's TorchEvaluator only; other evaluators make "
                "their optimisers in their own trainer: use its checkpoints."
            )
        live = [*optimizers, *(evaluator._lr_schedulers or [])]
        kept = [*pending["optimizers"], *pending["schedulers"]]
        if len(live) != len(kept):
            raise InputError(f"the checkpoint has {len(kept)} optimisers and schedulers, the evaluator {len(live)}.")
        for target, state in zip(live, kept, strict=True):
            target.load_state_dict(state)
        _set_random_state(pending["random"])


def _training_state(evaluator: Evaluator | None) -> dict[str, Any] | None:
    """States of the evaluator's live optimisers and schedulers; None while it has none."""
    if not getattr(evaluator, "_optimizers", None):
        return None
    schedulers = evaluator._lr_schedulers or []
    return {
        "optimizers": [deepcopy(optimizer.state_dict()) for optimizer in evaluator._optimizers],
        "schedulers": [deepcopy(scheduler.state_dict()) for scheduler in schedulers],
        "random": _random_state(),
    }


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.random.get_rng_state(), "cuda": cuda}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.random.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
