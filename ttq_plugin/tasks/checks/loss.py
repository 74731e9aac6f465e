"""Checks that a task's loss is a finite scalar with a gradient and compares each output with its own target."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.errors import InputError
from ttq_plugin.support import inputs
from ttq_plugin.support.frames import of_the_user
from ttq_plugin.tasks.checks.targets import TRIED
from ttq_plugin.tasks.samples import Samples, Split
from ttq_plugin.tasks.task import Loss, Task


def check_loss(task: Task, train: Samples, model: nn.Module) -> None:
    """Try the loss of one batch, in training mode.

    Args:
        task: The task whose loss it is.
        train: Its training split, on the CPU.
        model: Untrained, on the CPU; comes back as it was.

    Raises:
        InputError: If the model or the loss fails, or the loss cannot be trained by.
    """
    few = train.head(min(task.recipe.batch_size, TRIED, len(train)))
    with of_the_user(f"The class weights of {task.name}"):
        function = task.loss_for(train)
    state = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    training = model.training
    model.train()
    try:
        with torch.enable_grad():
            with of_the_user(f"The model of {task.name}, while it trains on {len(few)} samples,"):
                outputs = inputs.call(model, few.x)
            _check_value(task, model, function, outputs, few)
    finally:
        model.train(training)
        model.load_state_dict(state, strict=False)


def _check_value(task: Task, model: nn.Module, function: Loss, outputs: Any, few: Split) -> None:
    what = f"The loss of {task.name}, given outputs {inputs.kind(outputs)} and targets {inputs.kind(few.y)},"
    with of_the_user(what), warnings.catch_warnings(action="ignore"):  # broadcast targets are told in our own words
        loss = function(outputs, few.y)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(f"The loss must be one number, got {came}; average it over the batch, as by .mean().")
    if not bool(torch.isfinite(loss)):
        raise InputError(
            f"The loss of the untrained model must be finite, got {loss.item()}; check the loss and the data."
        )
    if loss.is_complex() or not loss.is_floating_point():
        raise InputError(f"The loss must be a floating-point number, got {loss.dtype}; return one.")
    if not loss.requires_grad:
        raise InputError(
            "The loss must depend on the model's weights, got one without a gradient; avoid detach(), argmax and "
            ".item()."
        )
    _check_pairing(function, outputs, few.y)
    _check_gradient(what, model, loss)


def _check_gradient(what: str, model: nn.Module, loss: Tensor) -> None:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        gradients = torch.autograd.grad(loss.reshape(()), weights, allow_unused=True)
    except RuntimeError as error:
        raise InputError(f"{what} must have a gradient, but has none ({str(error).splitlines()[0]}).") from error
    if all(gradient is None for gradient in gradients):
        raise InputError("The loss must depend on the model's weights, got one that uses none of them.")


def _check_pairing(function: Callable[[Any, Any], Any], outputs: Any, targets: Any) -> None:
    """Refuse outputs (n, 1) that are broadcast against targets (n,): every output with every target.

    Such a loss is the same whichever output belongs to which target.

    Args:
        function: The loss.
        outputs: The outputs of one batch.
        targets: The targets of the same batch.

    Raises:
        InputError: If the loss does not depend on which target belongs to which output.
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or not targets.is_floating_point():
        return
    if {tuple(outputs.shape[1:]), tuple(targets.shape[1:])} != {(1,), ()} or len(outputs) != len(targets):
        return
    turned = outputs.detach().double().roll(1, 0)
    straight, targets = turned.roll(-1, 0), targets.double()
    if torch.equal(turned, straight) or torch.equal(targets, targets.roll(-1, 0)):
        return
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            one, other = function(straight, targets), function(turned, targets)
            same = torch.allclose(one, other, rtol=1e-13, atol=0)
    except Exception:  # a loss that takes float32 alone
        return
    if same:
        raise InputError(
            f"The loss compares every output with every target, since outputs {tuple(outputs.shape)} and targets "
            f"{tuple(targets.shape)} are broadcast; give both one shape, as by outputs.squeeze(1) in the loss or "
            "y.unsqueeze(1) in the data."
        )
