"""A module as a list of steps over flat buffers, which C code and integer networks are made from.

torch.export gives the graph with its shapes; batch is 1. A value is a view (offset and strides) of a buffer, so that
reshaping and transposing cost nothing; a convolution or linear layer takes what follows it along. What depends on
parameters alone is computed beforehand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ttq_plugin.core.model.copying import copied
from ttq_plugin.deploy.flat import Flat, hushed, reason
from ttq_plugin.deploy.program.builder import Builder, Operations
from ttq_plugin.deploy.program.layers import LAYERS, layer
from ttq_plugin.deploy.program.ops import IDENTITIES, OPS, VIEWS
from ttq_plugin.deploy.program.steps import Program
from ttq_plugin.errors import InputError
from ttq_plugin.support.inputs import rows, tensors, to_device

OPERATIONS = Operations(IDENTITIES, VIEWS, dict.fromkeys(LAYERS, layer), OPS)


def trace(model: nn.Module, example_input: Any) -> Program:
    """The steps of the module in evaluation mode on one sample.

    Args:
        model: any module that torch.export takes; left as it is.
        example_input: (batch, ...): a tuple is the positional arguments, a dict the keyword arguments, anything else
            the one argument; the first sample's shapes are taken.

    Returns:
        The program.

    Raises:
        InputError: if torch cannot export the module, or it uses an operation that has no C code.
    """
    plain = copied(model).cpu().float().eval()
    example = rows(to_device(example_input, "cpu"), torch.zeros(1, dtype=torch.int64))
    found = [t.float() if t.is_floating_point() else t for t in tensors(example)]
    try:
        with hushed(), torch.no_grad():
            exported = torch.export.export(Flat(plain, example), (found,))
    except Exception as error:  # torch raises what the module's own code raised, and many kinds of its own
        raise InputError(f"{type(model).__name__} cannot be exported to C: {reason(error)}.") from None
    return Builder(exported, type(model).__name__, OPERATIONS).build()
