"""An integer network as a torch module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.core.model.copying import copied
from ttq_plugin.core.model.held import check_values
from ttq_plugin.deploy.integer.execute import run_integers
from ttq_plugin.deploy.integer.graph import build
from ttq_plugin.deploy.integer.lower import lower, names_of
from ttq_plugin.deploy.integer.operators.embedding import encoded
from ttq_plugin.deploy.integer.ranges import choose, observe, warn_saturated
from ttq_plugin.deploy.integer.records import IntegerProgram
from ttq_plugin.deploy.program.lower import trace
from ttq_plugin.errors import InputError, first_line
from ttq_plugin.support.arguments import check_types
from ttq_plugin.support.inputs import call, kind, length, map_tensors, tensors, to_device


class IntegerModule(nn.Module):
    """A network that computes with int8, with float inputs and outputs.

    Args:
        program: The operations.
        template: Outputs of the model for some batch, whose nesting this module's outputs have.

    Attributes:
        program: The operations; C code is written from them.
        saturated: Share of the calibration values that lay beyond the range, by tensor.
    """

    def __init__(self, program: IntegerProgram, template: Any) -> None:
        super().__init__()
        self.program = program
        self.saturated: dict[str, float] = {}
        self._template = [map_tensors(lambda t: torch.empty(t.shape, device="meta"), template)]

    def forward(self, *positional: Any, **named: Any) -> Any:
        """Quantise the inputs, compute with integers, and return the real numbers that the result represents."""
        given = positional if not named else {**named}
        integers = self.integers(self.quantised(positional[0] if len(positional) == 1 and not named else given))
        return self._nested(self.program.result.dequantise(integers))

    def quantised(self, x: Any) -> Tensor:
        """Round inputs to the grid of the input.

        Args:
            x: Inputs as the model takes them.

        Returns:
            int8 (batch, bytes of a sample): the input of the C function. Indices of an embedding take one, two or
            three bytes each, the lowest first.

        Raises:
            InputError: If an index lies outside its embedding.
        """  # noqa: DOC502 - raised by what it calls
        parts = self.program.parts
        return encoded(flattened(x, sum(count for count, _, _ in parts)), parts, self.program.given)

    @torch.no_grad()
    def integers(self, q: Tensor) -> Tensor:
        """Compute with integers only.

        Args:
            q: int8 (batch, bytes of a sample).

        Returns:
            int8 (batch, numbers of all outputs): the output of the C function.

        Raises:
            InputError: If they are no integers of this type, or another number of them.
        """  # noqa: DOC502 - raised by what it calls
        self.check_integers(q)
        return run_integers(self.program, q)

    def check_integers(self, q: Any) -> None:
        """Check samples before others are computed in their place: a copy into int8 would cut off fractions.

        Args:
            q: What ``integers`` was given.

        Raises:
            InputError: If they are no integers of this type, or another number of them.
        """
        size = self.program.input.size
        if not isinstance(q, Tensor) or q.dtype != torch.int8 or q.dim() != 2 or q.shape[1] != size:
            raise InputError(
                f"integers must be int8 of the shape (batch, {size}), got {kind(q)}; quantised() makes them from a "
                f"model's inputs."
            )

    def _nested(self, flat: Tensor) -> Any:
        sizes = [torch.Size(shape).numel() for shape in self.program.shapes[1]]
        parts = torch.split(flat, sizes, 1)
        shaped = iter(p.reshape(len(flat), *shape) for p, shape in zip(parts, self.program.shapes[1], strict=True))
        return map_tensors(lambda _: next(shaped), self._template[0])


def flattened(x: Any, size: int) -> Tensor:
    """All numbers of each sample, the inputs one behind the other.

    Args:
        x: Inputs as a model takes them.
        size: Numbers that a sample must have.

    Returns:
        float (batch, numbers).

    Raises:
        InputError: If a sample has another number of them.
    """
    found = tensors(to_device(x, "cpu"))
    flat = torch.cat([t.detach().float().reshape(len(t), -1) for t in found], 1)
    if flat.shape[1] != size:
        raise InputError(f"a sample must have {size} numbers, as in calibration, got {flat.shape[1]}.")
    return flat


def integerize(
    model: nn.Module,
    batches: Any,
    *,
    calibration: str = "mse",
    percentile: float = 99.99,
    ternary: bool = True,
) -> IntegerModule:
    """Turn a compressed network into one that computes with integers only.

    Activations are int8, with one scale and zero point per tensor, which are calibrated on the batches. Ternary weights
    stay ternary: each output is made of two int32 sums, over the positive and over the negative weights. All other
    weights become int8 with one step size per channel. BatchNorm, biases and clamps are folded into the requantisation.
    The module computes the same integers as the C code of ``ttq export --to c-int8``, bit for bit.

    Args:
        model: Network in plain torch layers, as ``compress`` and ``bake`` leave it. It is not changed.
        batches: Calibration inputs: one batch as the model takes it, or a list or other iterable of batches; a few
            hundred training samples are enough.
        calibration: ``mse`` takes the range with the least squared rounding error, ``percentile`` ignores the outermost
            values.
        percentile: Percentage of the values on either side that a range must hold, with ``percentile``.
        ternary: Whether ternary weights stay ternary; False makes them int8, for comparison.

    Returns:
        A module from float inputs to float outputs; ``quantised`` and ``integers`` are its two halves.

    Raises:
        InputError: If there is no sample, or the model uses an operation that has no integer form.

    Examples:
        >>> import torch
        >>> from ttq_plugin import integerize
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> integer = integerize(model, torch.randn(64, 4))
        >>> integer(torch.randn(2, 4)).shape
        torch.Size([2, 3])
    """  # noqa: DOC502 - raised by what it calls
    check_types(integerize, locals())
    if isinstance(model, IntegerModule):
        raise InputError("the model is already an integer network; integerize the network that it was made from.")
    check_values(model)
    given = [map_tensors(_float32, batch) for batch in _batches(batches)]
    if not given or not any(length(batch) for batch in given):
        raise InputError("calibration needs at least one sample, got none; give batches of training inputs.")
    first = next(batch for batch in given if length(batch))
    plain = copied(model).cpu().float().eval()
    try:
        with torch.no_grad():
            template = call(plain, first)
    except Exception as error:  # whatever the model's own code raises
        raise InputError(f"the model does not take the batches: {first_line(error)}.") from error
    program = trace(plain, first)
    graph = build(program, type(model).__name__)
    seen = observe(graph, (flattened(batch, program.input.size) for batch in given))
    ranges = choose(seen, calibration, percentile)
    names = names_of(graph)
    warn_saturated(ranges, names)
    module = IntegerModule(lower(graph, ranges, program.shapes, ternary=ternary), template)
    module.saturated = {names[key]: share for key, share in ranges.saturated.items() if key in names}
    return module


def _float32(tensor: Tensor) -> Tensor:
    """Numbers as the model has them while it is observed: in single precision, on the CPU."""
    return tensor.detach().cpu().float() if tensor.is_floating_point() else tensor.detach().cpu()


def _batches(batches: Any) -> list[Any]:
    """The batches as a list; a single input of the model counts as one batch."""
    if isinstance(batches, Tensor | tuple | Mapping):
        return [batches]
    if not isinstance(batches, Iterable):
        raise InputError(f"batches must be inputs of the model or an iterable of such, got {type(batches).__name__}.")
    return list(batches)
