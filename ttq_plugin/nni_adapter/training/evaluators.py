"""Repairs of NNI 3.0's evaluators, for today's Lightning and transformers; ``register`` puts them in place once."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nni.common import is_traceable
from nni.compression.utils import Evaluator, LightningEvaluator, TorchEvaluator, TransformersEvaluator
from nni.compression.utils.constructor_helper import LRSchedulerConstructHelper, OptimizerConstructHelper
from torch import Tensor, nn
from torch.optim import Optimizer

from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter.training.epochs import lightning_callbacks
from ttq_plugin.nni_adapter.training.recipes import check_whole, record

Task = Callable[[], object]


def repair_evaluators() -> None:
    """Replace what fails in NNI's evaluators; calling it again changes nothing."""
    if hasattr(TorchEvaluator.__init__, "__wrapped__"):
        return
    repairs: list[tuple[type, str, object]] = [
        (TorchEvaluator, "__init__", _checked(TorchEvaluator.__init__, _check_torch)),
        (OptimizerConstructHelper, "from_trace", staticmethod(_recorded)),
        (
            LRSchedulerConstructHelper,
            "from_trace",
            staticmethod(_scheduler_recorded(LRSchedulerConstructHelper.from_trace)),
        ),
        (TransformersEvaluator, "__init__", _checked(TransformersEvaluator.__init__, _check_trainer)),
        (TransformersEvaluator, "patch_optimizer_step", _patch_transformers_step),
        (TransformersEvaluator, "patch_loss", _patch_transformers_loss),
        (LightningEvaluator, "train", _train_lightning),
        (Evaluator, "_optimizer_add_param_group", _layers_only(Evaluator._optimizer_add_param_group)),
    ]
    for owner, name, repaired in repairs:
        setattr(owner, name, repaired)


class _Layers(nn.Module):
    """A model's parameters without its own: those of its layers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._of = [model]  # in a list, so that it is no part of this module

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        found = self._of[0].named_parameters(prefix, recurse, remove_duplicate)
        return (pair for pair in found if "." in pair[0])


def _layers_only(add: Callable[..., None]) -> Callable[..., None]:
    """NNI asks every parameter for the layer it belongs to, and fails at a model's own, such as a class token."""

    @functools.wraps(add)
    def added(self: Any, model: nn.Module, *arguments: Any, **keywords: Any) -> None:
        add(self, _Layers(model), *arguments, **keywords)

    return added


def _recorded(model: nn.Module, optimizer_trace: Optimizer) -> OptimizerConstructHelper:
    check_traced([optimizer_trace], "optimiser")
    return record(model, optimizer_trace)


def _scheduler_recorded(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(original)
    def from_trace(scheduler: Any) -> Any:
        check_traced([scheduler], "learning-rate scheduler")
        check_whole(type(scheduler).__name__, scheduler.trace_kwargs)
        return original(scheduler)

    return from_trace


def after_steps(evaluator: Any, tasks: Callable[[int], Task]) -> None:
    """Run tasks after each step of each optimiser; NNI lets tasks follow the first one's steps only.

    Args:
        evaluator: One that has just bound a model, and made its optimisers unless its trainer makes them.
        tasks: Gives the task for the optimiser of an index.
    """
    evaluator.patch_optimizer_step(before_step_tasks=[], after_step_tasks=[tasks(0)])
    mark_steps(evaluator)
    if not isinstance(evaluator, LightningEvaluator):
        _follow((getattr(evaluator, "_optimizers", None) or [])[1:], tasks)
        return
    original = evaluator.model.configure_optimizers

    def configure_optimizers(_: Any) -> Any:
        made = original()
        if evaluator._opt_returned_dicts:
            optimizers = [entry["optimizer"] for entry in made]
        else:
            optimizers = made[0] if evaluator._lr_scheduler_helpers else made
        _follow(optimizers[1:], tasks)
        return made

    evaluator.model.configure_optimizers = types.MethodType(configure_optimizers, evaluator.model)


def _follow(others: Sequence[Optimizer], tasks: Callable[[int], Task]) -> None:
    for index, optimizer in enumerate(others, start=1):
        optimizer.register_step_post_hook(functools.partial(_run, tasks(index)))


def mark_steps(evaluator: Any) -> None:
    """Mark NNI's replacement of the first optimiser's step as one that schedulers saw, or they warn of a wrong order.

    Args:
        evaluator: One that has just patched its optimisers.
    """
    for optimizer in (getattr(evaluator, "_optimizers", None) or [])[:1]:
        optimizer.step.__func__._wrapped_by_lr_sched = True


def check_traced(objects: Any, what: str) -> None:
    """Check that NNI can build these objects again for the wrapped model.

    Args:
        objects: None, one optimiser or scheduler, or a list of them.
        what: What they are, for the message.

    Raises:
        InputError: If one was not made by a class that ``nni.trace`` had wrapped.
    """
    for item in objects if isinstance(objects, (list, tuple)) else [objects] if objects is not None else []:
        if not is_traceable(item):
            name = type(item).__name__
            made = f"nni.trace(torch.optim.{name})(model.parameters(), ...)"
            example = made if isinstance(item, Optimizer) else f"nni.trace({name})(optimizer, ...)"
            raise InputError(f"the {what} must be traced by NNI, got a plain {name}; make it with {example}.")


def _checked(original: Any, check: Callable[..., object]) -> Any:
    """NNI asserts without a message that optimisers and schedulers are traced; ``check`` says it in a sentence."""

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        check(*args, **kwargs)
        original(self, *args, **kwargs)

    return __init__


def _check_torch(
    training_func: Any = None,
    optimizers: Any = None,
    training_step: Any = None,
    lr_schedulers: Any = None,
    *_: Any,
    **__: Any,
) -> None:
    made = list(optimizers) if isinstance(optimizers, (list, tuple)) else [optimizers]
    if not made or made == [None]:
        raise InputError("TorchEvaluator needs at least one optimiser, traced by nni.trace, got none.")
    check_traced(optimizers, "optimiser")
    check_traced(lr_schedulers, "learning-rate scheduler")
    schedulers = lr_schedulers if isinstance(lr_schedulers, (list, tuple)) else [lr_schedulers] if lr_schedulers else []
    for scheduler in schedulers:
        if not any(scheduler.optimizer is optimizer for optimizer in made):
            raise InputError(
                f"the learning-rate scheduler {type(scheduler).__name__} belongs to an optimiser that was not passed "
                "to the evaluator; pass that one too."
            )


def _check_trainer(trainer: Any, *_: Any, **__: Any) -> None:
    # Without a traced optimiser NNI asks the Trainer's default for its class, in a way that transformers 5 refuses.
    if getattr(trainer, "optimizer", None) is None:
        raise InputError(
            "the Trainer needs a traced optimiser: nni.trace(Trainer)(..., "
            "optimizers=(nni.trace(torch.optim.AdamW)(model.parameters(), lr=...), None))."
        )
    check_traced([trainer.optimizer], "optimiser")
    check_traced([s for s in [trainer.lr_scheduler] if s is not None], "learning-rate scheduler")


def _patch_transformers_step(self: Any, before_step_tasks: Sequence[Task], after_step_tasks: Sequence[Task]) -> None:
    """Run tasks around each step of the Trainer's optimiser, by torch's own hooks.

    NNI does it in a callback that takes a Trainer with the attribute ``deepspeed`` for one that uses DeepSpeed (today
    every Trainer has it), and of which a second compressor in a fusion replaces the first one's.
    """
    for task in before_step_tasks:
        self.trainer.optimizer.register_step_pre_hook(functools.partial(_run, task))
    for task in after_step_tasks:
        self.trainer.optimizer.register_step_post_hook(functools.partial(_run, task))


def _run(task: Task, *_: Any) -> None:
    task()


def _patch_transformers_loss(self: Any, patch: Callable[[Tensor, Any], Tensor]) -> None:
    """As NNI's, but passing on the keywords (``num_items_in_batch``) that today's Trainer gives to compute_loss."""
    original = self.trainer.compute_loss

    def compute_loss(_: Any, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        result = original(model, inputs, return_outputs, **kwargs)
        return (patch(result[0], inputs), result[1]) if return_outputs else patch(result, inputs)

    self.trainer.compute_loss = types.MethodType(compute_loss, self.trainer)


def _train_lightning(self: Any, max_steps: int | None = None, max_epochs: int | None = None) -> None:
    """As NNI's, but with ``max_steps``: the attribute that NNI sets cannot be set since Lightning 2."""
    trainer = self.trainer.trace_copy().get()
    trainer.num_sanity_val_steps = 0
    trainer.callbacks += lightning_callbacks(self)
    if max_steps:
        trainer.fit_loop.epoch_loop.max_steps = max_steps
    if max_epochs or max_steps:
        # -1: as many epochs as the steps take, whatever the trainer's own limit.
        trainer.fit_loop.max_epochs = max_epochs or -1
    try:
        trainer.fit(self.model, self.data_module)
    finally:
        # A model that refers to its trainer cannot be copied.
        self.model.trainer = None
