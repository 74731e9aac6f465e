"""Computes gradients that can be differentiated again, or explains in one sentence why they cannot."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends import cudnn, mkldnn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ttq_plugin.errors import InputError
from ttq_plugin.measures.untouched import untouched
from ttq_plugin.support import inputs

Loss = Callable[[Any, Any], Tensor]
"""(output, y) -> scalar; the output is whatever the model returns."""


@contextmanager
def twice_differentiable(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode, gradients on, full precision, attention by its one back end with a second derivative.

    Args:
        model: Comes back as it was, also after an error.
        device: Device on which autocast is switched off: in half precision, second derivatives are mostly rounding.

    Yields:
        Nothing.
    """
    with (
        untouched(model),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        sdpa_kernel(SDPBackend.MATH),
        # cuDNN's recurrent layers have no gradient in evaluation mode, and no second one at all.
        cudnn.flags(enabled=cudnn.enabled and not any(isinstance(m, nn.RNNBase) for m in model.modules())),
    ):
        yield


@contextmanager
def explained() -> Iterator[None]:
    """Turn autograd's complaint about a missing derivative into one sentence.

    Yields:
        Nothing.

    Raises:
        RuntimeError: About memory or the device, as it came.
        InputError: Any other RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        # The accelerators have classes for these; without memory on the CPU it is a plain RuntimeError.
        if isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError)) or "can't allocate memory" in reason:
            raise
        raise InputError(
            f"The loss must be twice differentiable, got an operation that is not ({reason}): replace it."
        ) from error


def loss_gradients(
    model: nn.Module, loss_fn: Loss, x: Any, y: Any, weights: list[nn.Parameter], index: int
) -> list[Tensor | None]:
    """dL/dw of one batch, with its graph; `.grad` is neither read nor written.

    Args:
        model: The model, in evaluation mode.
        loss_fn: (output, y) -> scalar.
        x: Tensors (batch, ...).
        y: Whatever the loss takes.
        weights: What to differentiate by.
        index: Number of the batch, for the message.

    Returns:
        A gradient a weight, None where the loss does not depend on it.

    Raises:
        InputError: If the loss is not a finite scalar, depends on none of the weights, or has no second derivative.
    """
    with _plain_lstm(model):
        loss = checked_loss(model, loss_fn, x, y, index)
    if not loss.requires_grad:
        raise InputError("The loss must depend on the layers' weights, got one detached from them: avoid detach().")
    _check_graph(loss)
    with explained():
        gradients = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
    if all(g is None for g in gradients):
        raise InputError("The loss must depend on the layers' weights, got one that uses none of them.")
    if not any(g is not None and g.requires_grad for g in gradients):
        raise InputError(
            "The loss must be twice differentiable, got one whose gradient does not depend on the weights "
            "(it is linear in them, or a custom backward cuts the graph): all second derivatives would be zero."
        )
    return list(gradients)


def checked_loss(model: nn.Module, loss_fn: Loss, x: Any, y: Any, index: int) -> Tensor:
    """The loss of one batch, a scalar with its graph.

    Args:
        model: The model, in evaluation mode.
        loss_fn: (output, y) -> scalar.
        x: Tensors (batch, ...).
        y: Whatever the loss takes.
        index: Number of the batch, for the message.

    Returns:
        The loss, of shape ().

    Raises:
        InputError: If the loss is not a finite scalar.
    """
    loss = loss_fn(inputs.call(model, x), y)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise InputError(f"`loss_fn` must return a scalar tensor, got {came}: average the loss over the batch.")
    if not bool(torch.isfinite(loss)):
        raise InputError(f"The loss must be finite, got {loss.item()} on batch {index}: check the model and the data.")
    return loss.reshape(())


@contextmanager
def _plain_lstm(model: nn.Module) -> Iterator[None]:
    """Make each LSTM use torch's own operations, because oneDNN's are recomputed in each second derivative."""
    enabled: list[bool] = []

    def off(*_: Any) -> None:
        enabled.append(mkldnn.set_flags(False)[0])

    def back(*_: Any) -> None:
        mkldnn.set_flags(enabled.pop())

    hooks = []
    for module in model.modules():
        if isinstance(module, nn.LSTM):
            hooks += [module.register_forward_pre_hook(off), module.register_forward_hook(back, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_graph(loss: Tensor) -> None:
    """Raise InputError if a custom function in the loss's graph is marked `once_differentiable`."""
    # Autograd raises only where the mark lies on the way to a parameter; elsewhere its part of the Hessian would
    # silently be missing.
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        code = getattr(getattr(getattr(node, "_forward_cls", None), "backward", None), "__code__", None)
        if code is not None and "once_differentiable" in code.co_qualname:
            raise InputError(
                f"The loss must be twice differentiable, got an operation that is not ({node.name()} is marked "
                "once_differentiable): replace it."
            )
        waiting.extend(parent for parent, _ in node.next_functions)
