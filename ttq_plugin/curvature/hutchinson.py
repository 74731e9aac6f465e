"""Hutchinson's estimate of every layer's Hessian trace at once.

For v with independent entries +-1 (Rademacher), E[v_l . (H v)_l] = Tr(H_ll): the blocks off the diagonal vanish in the
mean. So one Hessian-vector product over all layers gives an unbiased sample of every layer's trace (Hutchinson 1990).
HAWQ-v2 (Dong et al. 2020) takes a product a layer, v_l . (H_ll v_l): more work a probe, but without the noise of the
other layers' blocks, sum_m ||H_lm||^2 of variance. Both are here; the standard errors say which one was enough.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyhessian.utils import hessian_vector_product
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ttq_plugin.curvature.layers import candidate_layers
from ttq_plugin.curvature.traces import LayerTrace, Traces
from ttq_plugin.errors import InputError
from ttq_plugin.measures.untouched import untouched

Loss = Callable[[Any, Any], Tensor]
Batches = Iterable[tuple[Any, Any]]

ROUND = 8
"""Probes between two looks at the standard errors."""


def layer_traces(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    layers: Iterable[str] | None = None,
    probes: int = 32,
    tol: float | None = None,
    joint: bool = True,
    seed: int = 0,
) -> Traces:
    """Estimate the Hessian trace of every layer's weight, with its standard error.

    The loss is the mean over `batches`, weighted by their sizes, of `loss_fn(model(x), y)` in evaluation mode. The
    model comes back exactly as it was, also after an error.

    Args:
        model: float32 or float64; attention runs under the `MATH` back end, the only one with second derivatives.
        loss_fn: (output, y) -> scalar.
        batches: pairs (x, y) with tensors x of shape (batch, ...), on the model's device. Passed over once; with
            `tol` they are kept in memory.
        layers: names of the layers; None takes every convolution and linear layer with a trainable weight.
        probes: number of probes, at most; at least 2.
        tol: stop as soon as every layer's standard error is below `tol` x |trace|, looked at every 8 probes.
        joint: one product over all layers a probe, or (False) one a layer. Measured: without, a probe costs 1.0 to
            1.2 (MNIST CNN), 1.4 (2D CNN) or 5 (13-layer transformer) times as much, and standard errors are 2 (trained
            network) to 50 times smaller, so False is the cheaper way to a given precision.
        seed: of the probes; the global random state is neither used nor moved.

    Returns:
        A trace a layer; layers that the loss does not depend on are left out and named in `.unused`.

    Raises:
        InputError: no such layer, an unusable batch, a loss that is not a finite scalar or not twice differentiable.
    """
    if probes < 2:
        raise InputError(f"`probes` must be at least 2, one gives no standard error; got {probes}.")
    if tol is not None and not tol > 0:
        raise InputError(f"`tol` must be positive, or None for exactly `probes` probes; got {tol}.")
    modules = candidate_layers(model, layers)
    weights = [module.weight for module in modules.values()]
    if tol is not None:
        batches = list(batches)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(0, len(weights), dtype=torch.float64)
    while len(drawn) < probes:
        more = probes if tol is None else min(ROUND, probes - len(drawn))
        with _twice_differentiable(model):
            new, used, samples = _one_pass(model, loss_fn, batches, weights, more, joint, generator)
        drawn = torch.cat([drawn, new])
        found = _summary(modules, drawn, used)
        if tol is not None and len(drawn) > 1 and all(layer.relative_error < tol for layer in found):
            break
    unused = tuple(name for name, is_used in zip(modules, used, strict=True) if not is_used)
    return Traces(tuple(found), unused, samples, seed)


@contextmanager
def _twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, gradients on, attention by its one back end with a second derivative."""
    with untouched(model), torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


def _one_pass(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    weights: list[Any],
    probes: int,
    joint: bool,
    generator: torch.Generator,
) -> tuple[Tensor, list[bool], int]:
    """Samples v_l . (H v)_l, (probes, layers) in float64; which layers the loss depends on; data points."""
    # Batches are the outer loop, so that only one batch's graph is alive; each batch sees the same probes again.
    total = torch.zeros(probes, len(weights), dtype=torch.float64)
    used = [False] * len(weights)
    samples = 0
    start = generator.get_state()
    for index, batch in enumerate(batches):
        x, y = _checked(batch, index, weights[0].device)
        gradients = _gradients(model, loss_fn, x, y, weights, index)
        used = [before or g is not None for before, g in zip(used, gradients, strict=True)]
        generator.set_state(start)
        total += len(x) * _probe(_anchored(gradients, weights), weights, probes, joint, generator)
        samples += len(x)
        del gradients
    if samples == 0:
        raise InputError("`batches` must hold at least one pair (x, y), got none: pass a list or a loader with data.")
    return total / samples, used, samples


def _checked(batch: Any, index: int, device: torch.device) -> tuple[Tensor, Any]:
    """A batch as (x, y), or InputError."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[0], Tensor):
        raise InputError(
            f"Each batch must be a pair (x, y) with a tensor x, got {type(batch).__name__} as batch {index}: "
            "wrap a single batch in a list."
        )
    for name, value in zip("xy", batch, strict=True):
        if isinstance(value, Tensor) and value.device != device:
            raise InputError(
                f"Batches must lie on the model's device {device}, got {name} of batch {index} on {value.device}: "
                f"move it with .to({str(device)!r})."
            )
    return batch[0], batch[1]


def _gradients(
    model: nn.Module, loss_fn: Loss, x: Tensor, y: Any, weights: list[Any], index: int
) -> tuple[Tensor | None, ...]:
    """dL/dw of one batch with its graph; None for a weight that the loss does not depend on."""
    loss = loss_fn(model(x), y)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise InputError(f"`loss_fn` must return a scalar tensor, got {came}: average the loss over the batch.")
    if not bool(torch.isfinite(loss)):
        raise InputError(f"The loss must be finite, got {loss.item()} on batch {index}: check the model and the data.")
    if not loss.requires_grad:
        raise InputError("The loss must depend on the layers' weights, got one detached from them: avoid detach().")
    _check_graph(loss)
    with _explained():
        gradients = torch.autograd.grad(loss.reshape(()), weights, create_graph=True, allow_unused=True)
    if all(g is None for g in gradients):
        raise InputError("The loss must depend on the layers' weights, got one that uses none of them.")
    if not any(g is not None and g.requires_grad for g in gradients):
        raise InputError(
            "The loss must be twice differentiable, got one whose gradient does not depend on the weights "
            "(it is linear in them, or a custom backward cuts the graph): all second derivatives would be zero."
        )
    return tuple(gradients)


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


@contextmanager
def _explained() -> Iterator[None]:
    """Turn autograd's complaint about a missing second derivative into one sentence."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"The loss must be twice differentiable, got an operation that is not ({reason}): replace it."
        ) from error


def _anchored(gradients: tuple[Tensor | None, ...], weights: list[Any]) -> list[Tensor]:
    """Gradients that formally depend on every weight."""
    # PyHessian's product raises where a weight is not part of the graph (an unused layer, a loss linear in it); adding
    # 0 x w leaves every value as it is and makes those second derivatives the zeros that they are.
    return [0.0 * w if g is None else g + 0.0 * w for g, w in zip(gradients, weights, strict=True)]


def _probe(gradients: list[Tensor], weights: list[Any], probes: int, joint: bool, generator: torch.Generator) -> Tensor:
    """v_l . (H v)_l, or v_l . (H_ll v_l) if not joint; (probes, layers) in float64, on the CPU."""
    sizes = [w.numel() for w in weights]
    parts = [slice(None)] if joint else [slice(i, i + 1) for i in range(len(weights))]
    rows = []
    for _ in range(probes):
        signs = 2 * torch.randint(0, 2, (sum(sizes),), generator=generator, dtype=torch.int8) - 1
        vectors = [s.to(w).view_as(w) for s, w in zip(torch.split(signs, sizes), weights, strict=True)]
        products: list[Tensor] = []
        with _explained():
            for part in parts:
                products += hessian_vector_product(gradients[part], weights[part], vectors[part])
        pairs = zip(vectors, products, strict=True)
        rows.append(torch.stack([torch.sum(v * hv, dtype=torch.float64) for v, hv in pairs]).cpu())
    return torch.stack(rows)


def _summary(modules: dict[str, nn.Module], drawn: Tensor, used: list[bool]) -> list[LayerTrace]:
    """Mean and standard error (std / sqrt(probes)) of the samples (probes, layers), for the layers in use."""
    means, errors = drawn.mean(0).tolist(), (drawn.std(0) / math.sqrt(len(drawn))).tolist()
    found = []
    for (name, module), is_used, mean, error in zip(modules.items(), used, means, errors, strict=True):
        if not is_used:
            continue
        if not math.isfinite(mean):
            raise InputError(
                f"The loss must have finite second derivatives, got {mean} in layer {name!r}: avoid square roots and "
                "norms at zero."
            )
        found.append(
            LayerTrace(name, type(module).__name__, module.get_parameter("weight").numel(), mean, error, len(drawn))
        )
    return found
