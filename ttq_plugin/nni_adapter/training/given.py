"""Checks the arguments of NNI's evaluators before anything changes; NNI asserts some of them late or silently."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from nni.common import is_traceable
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ttq_plugin.errors import InputError
from ttq_plugin.support.arguments import shown

LOOP = ("model", "optimizers", "training_step", "lr_schedulers", "max_steps", "max_epochs")
"""What NNI passes to a training function, in this order."""


def check_optimizer(item: Any) -> None:
    """Check that NNI can build an optimiser again for the wrapped model.

    Args:
        item: The optimiser.

    Raises:
        InputError: If it is not an optimiser, or was not made by a class that ``nni.trace`` had wrapped.
    """
    _check_traced(item, Optimizer, "optimiser", "nni.trace(torch.optim.{})(model.parameters(), ...)", "Adam")


def check_scheduler(item: Any) -> None:
    """Check that NNI can build a learning-rate scheduler again for the wrapped model.

    Args:
        item: The scheduler.

    Raises:
        InputError: If it is not a scheduler, or was not made by a class that ``nni.trace`` had wrapped.
    """
    _check_traced(item, LRScheduler, "learning-rate scheduler", "nni.trace({})(optimizer, ...)", "StepLR")


def check_torch(
    training_func: Any = None,
    optimizers: Any = None,
    training_step: Any = None,
    lr_schedulers: Any = None,
    dummy_input: Any = None,
    evaluating_func: Any = None,
    *_: Any,
    **__: Any,
) -> None:
    """Check the arguments of ``TorchEvaluator``.

    Args:
        training_func: The user's training loop.
        optimizers: The optimiser, or several.
        training_step: Function that returns the loss of a batch.
        lr_schedulers: None, one scheduler or several.
        dummy_input: Whatever the model takes.
        evaluating_func: Function that returns the score of a model, or None.

    Raises:
        InputError: If an argument is invalid.
    """
    made = list(optimizers) if isinstance(optimizers, (list, tuple)) else [optimizers]
    if not made or made == [None]:
        raise InputError("TorchEvaluator needs at least one optimiser, traced by nni.trace, got none.")
    for optimizer in made:
        check_optimizer(optimizer)
    if len({id(optimizer) for optimizer in made}) < len(made):
        raise InputError("TorchEvaluator got the same optimiser twice; pass each one once.")
    _check_function("training_func", training_func, LOOP)
    _check_function("training_step", training_step, ("batch",), more=True)
    if evaluating_func is not None:
        _check_function("evaluating_func", evaluating_func, ("model",))
    schedulers = lr_schedulers if isinstance(lr_schedulers, (list, tuple)) else [lr_schedulers]
    for scheduler in schedulers if lr_schedulers is not None else []:
        check_scheduler(scheduler)
        _check_home(scheduler, made, "passed to the evaluator; pass that one too")


def check_lightning(trainer: Any = None, data_module: Any = None, *_: Any, **__: Any) -> None:
    """Check the arguments of ``LightningEvaluator``.

    Args:
        trainer: Lightning's trainer.
        data_module: Lightning's data module.

    Raises:
        InputError: If one is of another type, or was not traced.
    """
    if find_spec("pytorch_lightning") is None:
        raise InputError("LightningEvaluator needs pytorch_lightning; install it with pip install pytorch-lightning.")
    import pytorch_lightning as pl

    for what, item, kind in (("trainer", trainer, pl.Trainer), ("data module", data_module, pl.LightningDataModule)):
        if not isinstance(item, kind) or not is_traceable(item):
            got = f"an untraced {type(item).__name__}" if isinstance(item, kind) else shown(item)
            made = "pytorch_lightning.Trainer" if kind is pl.Trainer else "YourDataModule"
            raise InputError(
                f"LightningEvaluator needs a {what} of pytorch_lightning that NNI traced, got {got}; make it with "
                f"nni.trace({made})(...)."
            )


def check_trainer(trainer: Any = None, *_: Any, **__: Any) -> None:
    """Check the arguments of ``TransformersEvaluator``.

    Args:
        trainer: The trainer.

    Raises:
        InputError: If it is not a Trainer, or it or its optimiser was not traced.
    """
    example = "nni.trace(Trainer)(..., optimizers=(nni.trace(torch.optim.AdamW)(model.parameters(), lr=...), None))"
    if isinstance(trainer, type) or not hasattr(trainer, "compute_loss") or not is_traceable(trainer):
        got = "an untraced one" if hasattr(trainer, "compute_loss") else shown(trainer)
        raise InputError(f"TransformersEvaluator needs a Trainer that NNI traced, got {got}; make it with {example}.")
    # Without a traced optimiser NNI asks the Trainer's default for its class, in a way that transformers 5 refuses.
    if getattr(trainer, "optimizer", None) is None:
        raise InputError(f"the Trainer needs a traced optimiser: {example}.")
    check_optimizer(trainer.optimizer)
    if trainer.lr_scheduler is not None:
        check_scheduler(trainer.lr_scheduler)


def readable(model: nn.Module) -> Any:
    """Call the ``configure_optimizers`` of a LightningModule, and bring its result into a form that NNI reads.

    Args:
        model: What a ``LightningEvaluator`` is to train.

    Returns:
        The optimisers, and the schedulers if there are any, in one of Lightning's forms.

    Raises:
        InputError: If the model is not a LightningModule, or returns no optimisers or something else.
    """
    import pytorch_lightning as pl

    if not isinstance(model, pl.LightningModule):
        raise InputError(
            f"LightningEvaluator trains a LightningModule, got {type(model).__name__}; pass such a module, or use "
            "TorchEvaluator."
        )
    made: Any = model.configure_optimizers()
    entries = _entries(made)
    if all(entry.keys() == {"optimizer"} for entry in entries):
        return [entry["optimizer"] for entry in entries]
    return entries


def _entries(made: Any) -> list[dict[str, Any]]:
    """Unify Lightning's forms: a dict for each optimiser, with the configuration of its scheduler, if any."""
    several = list(made) if isinstance(made, (list, tuple)) else [made]
    of_schedulers: Sequence[Any] = ()
    if len(several) == 2 and all(isinstance(part, (list, tuple)) for part in several):
        several, of_schedulers = several
    entries = [dict(entry) if isinstance(entry, dict) else {"optimizer": entry} for entry in several]
    found: list[Any] = [entry.get("optimizer") for entry in entries]
    if not found or any(not isinstance(optimizer, Optimizer) for optimizer in found):
        raise InputError(
            "configure_optimizers must return one optimiser or several, alone or with schedulers in one of Lightning's "
            f"forms, got {shown(made)}; NNI trains through them."
        )
    for optimizer in found:
        check_optimizer(optimizer)
    for given in of_schedulers:
        config = _configuration(given, found)
        place = next(i for i, optimizer in enumerate(found) if optimizer is config["scheduler"].optimizer)
        if "lr_scheduler" in entries[place]:
            raise InputError("NNI takes one learning-rate scheduler for each optimiser, got several; join them in one.")
        entries[place]["lr_scheduler"] = config
    for entry in entries:
        if entry.get("lr_scheduler") is None:
            entry.pop("lr_scheduler", None)
        else:
            entry["lr_scheduler"] = _configuration(entry["lr_scheduler"], found)
    return entries


def _configuration(given: Any, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    """A scheduler's configuration, made from the scheduler if there is none."""
    config = dict(given) if isinstance(given, dict) else {"scheduler": given}
    check_scheduler(config.get("scheduler"))
    _check_home(config["scheduler"], optimizers, "returned by configure_optimizers; return that one too")
    return config


def _check_home(scheduler: Any, optimizers: Sequence[Any], what: str) -> None:
    if not any(scheduler.optimizer is optimizer for optimizer in optimizers):
        name = type(scheduler).__name__
        raise InputError(f"the learning-rate scheduler {name} belongs to an optimiser that was not {what}.")


def _check_traced(item: Any, kind: type, what: str, example: str, usual: str) -> None:
    if not isinstance(item, kind):
        raise InputError(
            f"the {what} must be one of torch's that NNI traced, got {shown(item)}; make it with "
            f"{example.format(usual)}."
        )
    if not is_traceable(item):
        name = type(item).__name__
        raise InputError(f"the {what} must be traced by NNI, got a plain {name}; make it with {example.format(name)}.")


def _check_function(name: str, given: Any, positional: Sequence[str], *, more: bool = False) -> None:
    """Check that a function takes these positional arguments, and further ones if it may."""
    if not callable(given) or isinstance(given, type) or (isinstance(given, nn.Module) and not more):
        raise InputError(f"{name} must be a function of {', '.join(positional)}, got {shown(given)}.")
    try:
        signature = inspect.signature(given)
    except ValueError:  # a function of C that does not tell
        return
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    fits = bool(kinds - {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD})
    if not more:
        fits = _takes(signature, len(positional))
    if not fits:
        took = ", ".join(map(str, signature.parameters.values()))
        raise InputError(f"{name} must take {', '.join(positional)} by place, got a function of ({took}).")


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
