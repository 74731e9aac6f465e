"""How many multiply-adds one call of a torch operator takes: a rule for each operator that multiplies.

In the formulas nnz is the number of non-zeros of a weight, and the number of elements of anything else.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Weights(Protocol):
    """What the rules ask of the tensors that an operator is given."""

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether its values are those of parameters, or computed from parameters and constants alone."""

    def is_known(self, tensor: Tensor) -> bool:
        """Whether its values do not depend on the model's input."""

    def size(self, tensor: Tensor) -> int:
        """The non-zeros of a weight, the number of elements of anything else."""


Part = tuple[int, Tensor | None]
"""Mult-adds, and the weight or bias that they are made with; None where activations meet."""

Rule = Callable[[Sequence[Any], Any, Weights], list[Part]]
"""``(arguments, result, weights) -> parts``; arguments are positional, as in torch's schema."""


def product(a: Tensor, b: Tensor, weights: Weights) -> Part:
    """Multiplications of a matrix product: sum over k of nnz(a[:, k]) nnz(b[k, :]).

    Args:
        a: (..., m, k).
        b: (..., k, n), with the same leading dimensions.
        weights: What is a weight.

    Returns:
        M k n for dense matrices.
    """
    m, n = a.shape[-2], b.shape[-1]
    if weights.is_weight(a) and weights.is_weight(b):
        return int((torch.count_nonzero(a, -2) * torch.count_nonzero(b, -1)).sum()), b
    if weights.is_weight(a):
        return weights.size(a) * n, a
    return weights.size(b) * m, b if weights.is_weight(b) else None


def bias(value: Tensor | None, out: Tensor, weights: Weights) -> Part:
    """nnz(b) for each time that it is added; 0 for what is no weight, such as a residual."""
    if value is None or not value.numel() or not weights.is_weight(value):
        return 0, None
    return weights.size(value) * (out.numel() // value.numel()), value


def convolution(arguments: Sequence[Any], out: Tensor, weights: Weights) -> list[Part]:
    """nnz(w) x output positions + nnz(b) x output positions; padding counts as data.

    A transposed convolution spreads each input by the whole kernel: nnz(w) x input positions.

    Args:
        arguments: Input (batch, channels, ...), weight, bias, stride, padding, dilation, whether it is transposed.
        out: (batch, channels, ...).
        weights: What is a weight.

    Returns:
        The mult-adds of the whole batch.
    """
    x, weight, shift, *_ = arguments
    walked = x if arguments[6] else out
    return [(weights.size(weight) * (walked.numel() // walked.shape[1]), weight), bias(shift, out, weights)]


def attention(arguments: Sequence[Any], out: Any, weights: Weights) -> list[Part]:
    """QK^T and AV: batch x heads x L x S x (E + Ev); a causal mask saves nothing here. Softmax is not counted."""
    query, key, value, *_ = arguments
    return [(int(math.prod(query.shape[:-1])) * int(key.shape[-2]) * int(query.shape[-1] + value.shape[-1]), None)]


def recurrent(parameters: Sequence[Tensor], x: Tensor, weights: Weights) -> list[Part]:
    """Steps x (nnz of the matrices and biases); the gates' products of activations are not counted.

    Args:
        parameters: Input and recurrent matrices and biases.
        x: (steps, batch, features), in any order of the first dimensions.
        weights: What is a weight.

    Returns:
        The mult-adds of the whole batch.
    """
    return [(weights.size(p) * (x.numel() // x.shape[-1]), p) for p in parameters]


def scaling(arguments: Sequence[Any], out: Tensor, weights: Weights) -> list[Part]:
    """Multiplying activations by a parameter, as hand-written normalisations do: nnz x how often each is used."""
    tensors = [a for a in arguments[:2] if isinstance(a, Tensor)]
    if all(map(weights.is_known, tensors)):  # a weight is made, such as a masked one
        return []
    return [bias(tensor, out, weights) for tensor in tensors]


def _matrices(first: int, shift: int | None = None) -> Rule:
    """The rule of a matrix product whose matrices are arguments `first` and the next, with a bias at `shift`."""

    def rule(arguments: Sequence[Any], out: Tensor, weights: Weights) -> list[Part]:
        extra = [] if shift is None else [bias(arguments[shift], out, weights)]
        return [product(arguments[first], arguments[first + 1], weights), *extra]

    return rule


def _vector(first: int, shift: int | None = None) -> Rule:
    """The same for a matrix, or vector, times a vector."""

    def rule(arguments: Sequence[Any], out: Tensor, weights: Weights) -> list[Part]:
        a, b = arguments[first], arguments[first + 1]
        extra = [] if shift is None else [bias(arguments[shift], out, weights)]
        return [product(a if a.dim() > 1 else a.unsqueeze(0), b.unsqueeze(-1), weights), *extra]

    return rule


def _elements(arguments: Sequence[Any], out: Any, weights: Weights) -> list[Part]:
    """Normalisation: one an element, scale and shift; statistics are not counted."""
    return [((out if isinstance(out, Tensor) else out[0]).numel(), None)]


RULES: dict[str, Rule] = {
    "mm": _matrices(0),
    "bmm": _matrices(0),
    "_int_mm": _matrices(0),
    "addmm": _matrices(1, shift=0),
    "baddbmm": _matrices(1, shift=0),
    "addbmm": _matrices(1, shift=0),
    "_addmm_activation": _matrices(1, shift=0),
    "mv": _vector(0),
    "dot": _vector(0),
    "addmv": _vector(1, shift=0),
    "convolution": convolution,
    # Without biases (argument 12) zeros stand in their places.
    "mkldnn_rnn_layer": lambda a, out, weights: recurrent(a[1:5] if a[12] else a[1:3], a[0], weights),
    "_cudnn_rnn": lambda a, out, weights: recurrent(a[1], a[0], weights),
    "_thnn_fused_lstm_cell": lambda a, out, weights: [bias(b, a[0], weights) for b in a[3:5]],
    "_thnn_fused_gru_cell": lambda a, out, weights: [bias(b, a[0], weights) for b in a[3:5]],
    **dict.fromkeys(("mul", "mul_", "div", "div_"), scaling),
    **dict.fromkeys(
        (
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_no_training",
            "_batch_norm_no_update",
            "cudnn_batch_norm",
            "miopen_batch_norm",
            "native_layer_norm",
            "native_group_norm",
            "_fused_rms_norm",
        ),
        _elements,
    ),
}
"""Rules by the operator's name, for operators that any model may call; see also ``rule_of``."""

FREE = frozenset(
    "add add_ sub sub_ rsub cat stack embedding _embedding_bag _embedding_bag_forward_only index index_select gather "
    "where copy_ masked_fill masked_fill_ index_put index_put_ eq ne lt le gt ge maximum minimum expand_as view_as "
    "slice_scatter select_scatter fill_ scatter scatter_".split()
)
"""Operators that bring a parameter and activations together without multiplying."""

HEAVY = ("_fft", "linalg_", "_linalg", "_cdist", "_trilinear", "_grouped_mm", "_scaled_mm", "_flash", "_efficient")
"""How the names of operators begin that multiply a lot, with or without parameters, and have no rule."""


def rule_of(namespace: str, name: str) -> Rule | None:
    """The rule of an operator.

    Args:
        namespace: A namespace such as ``aten``.
        name: The name without its overload.

    Returns:
        The rule, or None if there is none.
    """
    if namespace != "aten":
        return None
    # One operator for each way in which a device computes attention; query, key and value come first in all.
    return attention if name.startswith("_scaled_dot_product") else RULES.get(name)


def is_heavy(namespace: str, name: str) -> bool:
    """Whether an operator without a rule may multiply a lot: a foreign one, or one of ``HEAVY``."""
    if namespace not in ("aten", "prim", "prims"):
        return True
    return name.startswith(HEAVY) and name != "linalg_vector_norm"
