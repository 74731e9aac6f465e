"""Repairs NNI 3.0's evaluators for current versions of Lightning and transformers; ``register`` applies this once."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nni.compression.utils import Evaluator, LightningEvaluator, TorchEvaluator, TransformersEvaluator
from nni.compression.utils.constructor_helper import LRSchedulerConstructHelper, OptimizerConstructHelper
from torch import Tensor, nn
from torch.optim import Optimizer

from ttq_plugin.nni_adapter.training.epochs import lightning_callbacks
from ttq_plugin.nni_adapter.training.given import (
    check_lightning,
    check_optimizer,
    check_scheduler,
    check_torch,
    check_trainer,
    readable,
)
from ttq_plugin.nni_adapter.training.recipes import check_whole, record

Task = Callable[[], object]


def repair_evaluators() -> None:
    """Replace the failing parts of NNI's evaluators; calling it again changes nothing."""
    if hasattr(TorchEvaluator.__init__, "__wrapped__"):
        return
    repairs: list[tuple[type, str, object]] = [
        (TorchEvaluator, "__init__", _checked(TorchEvaluator.__init__, check_torch)),
        (OptimizerConstructHelper, "from_trace", staticmethod(_recorded)),
        (
            LRSchedulerConstructHelper,
            "from_trace",
            staticmethod(_scheduler_recorded(LRSchedulerConstructHelper.from_trace)),
        ),
        (TransformersEvaluator, "__init__", _checked(TransformersEvaluator.__init__, check_trainer)),
        (TransformersEvaluator, "patch_optimizer_step", _patch_transformers_step),
        (TransformersEvaluator, "patch_loss", _patch_transformers_loss),
        (LightningEvaluator, "__init__", _checked(LightningEvaluator.__init__, check_lightning)),
        (LightningEvaluator, "_init_optimizer_helpers", _read_first(LightningEvaluator._init_optimizer_helpers)),
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
    check_optimizer(optimizer_trace)
    return record(model, optimizer_trace)


def _scheduler_recorded(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(original)
    def from_trace(scheduler: Any) -> Any:
        check_scheduler(scheduler)
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


def _checked(original: Any, check: Callable[..., object]) -> Any:
    """NNI asserts without a message that optimisers and schedulers are traced; ``check`` says it in a sentence."""

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        check(*args, **kwargs)
        original(self, *args, **kwargs)

    return __init__


def _read_first(original: Callable[[Any, nn.Module], None]) -> Callable[[Any, nn.Module], None]:
    """NNI reads what ``configure_optimizers`` returns, and fails at some of Lightning's forms without a sentence."""

    @functools.wraps(original)
    def _init_optimizer_helpers(self: Any, pure_model: nn.Module) -> None:
        made = readable(pure_model)
        own = vars(pure_model).get("configure_optimizers")
        pure_model.configure_optimizers = lambda: made  # type: ignore[assignment]
        try:
            original(self, pure_model)
        finally:
            del pure_model.configure_optimizers
            if own is not None:
                pure_model.configure_optimizers = own

    return _init_optimizer_helpers


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
