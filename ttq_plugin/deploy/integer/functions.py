"""Operations on single numbers by the names that a program's steps call them, as torch does them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    **{"SIGMOID": torch.sigmoid, "SILU": F.silu, "GELU": F.gelu, "RSQRT": torch.rsqrt, "SOFTPLUS": F.softplus},
    **{"GELU_TANH": functools.partial(F.gelu, approximate="tanh"), "ELU": F.elu, "NEGATIVE": torch.neg},
    **{"RECIPROCAL": torch.reciprocal, "TANH": torch.tanh, "EXP": torch.exp, "SQRT": torch.sqrt, "LOG": torch.log},
    **{"ERF": torch.erf, "SIN": torch.sin, "COS": torch.cos, "FABS": torch.abs, "FLOOR": torch.floor},
}
"""Functions of one number."""


def steeper(a: Tensor, b: Tensor) -> Tensor:
    """PReLU: ``b`` is the slope below 0."""
    return torch.where(a < 0, a * b, a)


def truth(compare: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """1 where a comparison holds, 0 elsewhere."""
    return lambda a, b: compare(a, b).to(a.dtype)


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{"ADD": torch.add, "SUBTRACT": torch.sub, "MULTIPLY": torch.mul, "DIVIDE": torch.div, "POWER": torch.pow},
    **{"MAXIMUM": torch.maximum, "MINIMUM": torch.minimum, "STEEPER": steeper},
    **{"GREATER": truth(torch.gt), "GREATER_EQUAL": truth(torch.ge), "LESS": truth(torch.lt)},
    **{"LESS_EQUAL": truth(torch.le), "EQUAL": truth(torch.eq), "DIFFERENT": truth(torch.ne)},
    "KEEP": lambda a, b: torch.where(b != 0, a, 0),
    "DROP": lambda a, b: torch.where(b != 0, 0, a),
}
"""Functions of two numbers."""


def leaky(slope: float) -> Callable[[Tensor], Tensor]:
    """ReLU with a slope below 0."""
    return functools.partial(F.leaky_relu, negative_slope=slope)
