"""Multiply-adds of one forward pass, counted from the shapes that really flow.

Only non-zero values count, a bias like a weight. Counted are the modules below; functional calls (a hand-written
attention, activations, pooling, softmax) are not seen: `uncounted` names the modules that hold parameters and have no
rule. A layer called twice counts twice.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.errors import InputError
from ttq_plugin.measures.ternary import CONVOLUTIONS, TRANSPOSED
from ttq_plugin.measures.untouched import untouched

NORMALISATIONS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
_COUNTED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, *NORMALISATIONS, nn.MultiheadAttention)


def nonzeros(values: Tensor | None) -> int:
    """Values that are not zero; 0 for an absent tensor (a layer without bias)."""
    return 0 if values is None else int(torch.count_nonzero(values.detach()))


def convolution(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, out: Tensor) -> int:
    """(nnz(w) + nnz(b)) x output positions; padding counts as data. `out`: (batch, out_channels, ...)."""
    return (nonzeros(module.weight) + nonzeros(module.bias)) * (out.numel() // module.out_channels)


def transposed_convolution(
    module: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d, x: Tensor, out: Tensor
) -> int:
    """nnz(w) x input positions + nnz(b) x output positions: each input is spread by the whole kernel."""
    spread = nonzeros(module.weight) * (x.numel() // module.in_channels)
    return spread + nonzeros(module.bias) * (out.numel() // module.out_channels)


def linear(module: nn.Linear, out: Tensor) -> int:
    """(nnz(w) + nnz(b)) x rows; each token of a sequence is a row. `out`: (..., out_features)."""
    return (nonzeros(module.weight) + nonzeros(module.bias)) * (out.numel() // module.out_features)


def normalisation(out: Tensor) -> int:
    """One an element: scale and shift (BatchNorm folds to just that); statistics are not counted."""
    return out.numel()


def attention(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> tuple[int, int]:
    """Mult-adds of one call of multi-head attention.

    Projections: nnz of each of the three input projections (and their biases) x its rows. Products: QK^T and AV,
    2 batch L S E, with S + 1 keys for each of `bias_k` and `add_zero_attn`. Softmax and 1/sqrt(d) are not counted.

    Args:
        module: the attention.
        query: (batch, L, E) or (L, batch, E) as `batch_first` says, or (L, E); likewise the others with S.
        key: the keys.
        value: the values.

    Returns:
        Mult-adds of the input projections and products, and of `out_proj`, which is never called as a module.
    """
    if module.in_proj_weight is not None:
        weights = module.in_proj_weight.chunk(3)
    else:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    rows = [x.numel() // x.shape[-1] for x in (query, key, value)]
    projections = sum((nonzeros(w) + nonzeros(b)) * r for w, b, r in zip(weights, biases, rows, strict=True))
    sequence = 1 if query.dim() == 3 and module.batch_first else 0
    keys = key.shape[sequence] + (module.bias_k is not None) + module.add_zero_attn
    products = 2 * rows[0] * keys * module.embed_dim
    return projections + products, (nonzeros(module.out_proj.weight) + nonzeros(module.out_proj.bias)) * rows[0]


def uncounted(model: nn.Module) -> tuple[str, ...]:
    """Names of the leaf modules that hold parameters but have no rule here (recurrent layers, a user's own)."""
    return tuple(
        name
        for name, module in model.named_modules()
        if name
        and not isinstance(module, (*_COUNTED, nn.Embedding))
        and module._parameters
        and not list(module.children())
    )


def count(model: nn.Module, example_input: Tensor) -> dict[str, int]:
    """Mult-adds of each module for ONE sample, by running the model once; the model comes back as it was.

    Args:
        model: a plain module.
        example_input: (batch, ...); the leading dimension is the batch, which is divided out (rounded up, where work
            is shared by the samples of a batch).

    Returns:
        Name of module -> mult-adds a sample.

    Raises:
        InputError: the model does not run on `example_input`.
    """
    if not isinstance(example_input, Tensor) or example_input.dim() == 0 or len(example_input) == 0:
        raise InputError(
            "`example_input` must be a tensor (batch, ...) with at least one sample: pass one of the data."
        )
    totals: Counter[str] = Counter()
    handles = []
    try:
        for name, module in model.named_modules():
            rule = _rule(name, module, totals)
            if rule is not None:
                handles.append(module.register_forward_hook(rule, with_kwargs=True))
        with untouched(model), torch.no_grad():
            model(example_input)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"The model must run on `example_input`, got an error on shape {tuple(example_input.shape)}, "
            f"{example_input.dtype}, {example_input.device}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return {name: -(-total // len(example_input)) for name, total in totals.items()}


def _rule(name: str, module: nn.Module, totals: Counter[str]) -> Callable[..., None] | None:
    """The forward hook that adds this module's mult-adds to `totals`, or None."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        if isinstance(module, nn.MultiheadAttention):
            query, key, value = (*args, *(kwargs[k] for k in ("query", "key", "value")[len(args) :]))[:3]
            inside, projected = attention(module, query, key, value)
            totals[name] += inside
            totals[f"{name}.out_proj" if name else "out_proj"] += projected
        elif isinstance(module, TRANSPOSED):
            totals[name] += transposed_convolution(module, args[0] if args else kwargs["input"], out)
        elif isinstance(module, CONVOLUTIONS):
            totals[name] += convolution(module, out)
        elif isinstance(module, nn.Linear):
            totals[name] += linear(module, out)
        else:
            totals[name] += normalisation(out)

    return hook if isinstance(module, _COUNTED) else None
