"""Counts the work of torch's operations, which is the same on every run, unlike measured times."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, ops
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

OPERATION = 10_000.0
"""Elements that could be read or written in the time that an operation takes to start. This and `FLOP` were fitted to
the times of training steps and Hessian-vector products of twenty networks on one CPU core, which the counted ratios of
the two meet within about a third (LSTMs, of which oneDNN makes one operation: within a factor of two)."""

FLOP = 1 / 30
"""Elements that could be read or written in the time of one floating-point operation of a matrix product."""


class Work(TorchDispatchMode):
    """Counts the work of all that is computed inside, in elements read or written.

    Attributes:
        total: The work so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: float = 0.0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and count it."""
        out = function(*args, **(kwargs or {}))
        self.total += OPERATION + _elements(function, args, kwargs, out) + FLOP * _flops(function, args, kwargs, out)
        return out


def work(call: Callable[[], Any]) -> float:
    """The work of a call, whose result is discarded."""
    with Work() as counted:
        call()
    return float(counted.total)


def _elements(function: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Elements read and written; none by views."""
    read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    written = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    inside = {tensor.untyped_storage()._cdata for tensor in read}
    if not function._schema.is_mutable and all(t.untyped_storage()._cdata in inside for t in written):
        return 0
    return sum(tensor.numel() for tensor in (*read, *written))


def _flops(function: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Floating-point operations of matrix products and convolutions."""
    packet = function._overloadpacket
    if packet is ops.aten.convolution_backward:
        # Torch's own formula leaves groups out of the weight's gradient.
        gradient, x, weight = args[:3]
        outputs = x if args[7] else gradient  # args[7]: whether it is transposed, args[10]: which gradients are wanted
        return int(2 * len(outputs) * math.prod(outputs.shape[2:]) * weight.numel() * sum(args[10][:2]))
    if packet in (ops.aten.mkldnn_rnn_layer, ops.aten.mkldnn_rnn_layer_backward):
        # A recurrent layer as one operation: for each step of each sequence, both matrices once, or twice backward.
        passes = 1 if packet is ops.aten.mkldnn_rnn_layer else 2
        return int(2 * passes * args[0].shape[:-1].numel() * (args[1].numel() + args[2].numel()))
    counted: int = flop_registry[packet](*args, **(kwargs or {}), out_val=out) if packet in flop_registry else 0
    return counted
