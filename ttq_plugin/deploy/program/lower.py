"""A module as a list of steps over flat buffers, which C code and integer networks are made from.

torch.export gives the graph with its shapes; batch is 1. A value is a view (offset and strides) of a buffer, so that
reshaping and transposing cost nothing; a convolution or linear layer takes what follows it along. What depends on
parameters alone is computed beforehand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import OutputKind

from ttq_plugin.core.model.copying import copied
from ttq_plugin.deploy.flat import Flat, exporting, reason
from ttq_plugin.deploy.program.builder import Builder, Operations
from ttq_plugin.deploy.program.graphs import exported
from ttq_plugin.deploy.program.layers import LAYERS, layer
from ttq_plugin.deploy.program.operators import is_operator
from ttq_plugin.deploy.program.ops import IDENTITIES, OPS, VIEWS
from ttq_plugin.deploy.program.steps import Program
from ttq_plugin.errors import InputError
from ttq_plugin.support.inputs import rows, tensors, to_device

aten = torch.ops.aten

MOST_ROUNDS = 4
"""How often operators are taken apart that others were made of."""

OPERATIONS = Operations(IDENTITIES, VIEWS, dict.fromkeys(LAYERS, layer), OPS)


def trace(model: nn.Module, example_input: Any) -> Program:
    """The steps of the module in evaluation mode on one sample.

    Args:
        model: Any module that torch.export supports; it is not changed.
        example_input: (batch, ...): a tuple is the positional arguments, a dict the keyword arguments, anything else
            the one argument; the first sample's shapes are taken.

    Returns:
        The program.

    Raises:
        InputError: If torch cannot export the module, or it uses an operation that has no C code.
    """
    plain = copied(model).cpu().float().eval()
    example = rows(to_device(example_input, "cpu"), torch.zeros(1, dtype=torch.int64))
    found = [t.float() if t.is_floating_point() else t for t in tensors(example)]
    try:
        with exporting(), torch.no_grad():
            graph = exported(Flat(plain, example), found)
    except Exception as error:  # torch raises what the module's own code raised, and many kinds of its own
        raise InputError(f"{type(model).__name__} cannot be exported to C: {reason(error)}.") from None
    return Builder(_simplified(graph), type(model).__name__, OPERATIONS).build()


def _simplified(graph: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The graph with operators that have no steps replaced by those that torch makes them of."""
    table = torch.export.default_decompositions()
    for _ in range(MOST_ROUNDS):
        unknown = {node.target for node in graph.graph.nodes if is_operator(node) and not OPERATIONS.know(node)}
        if not (parts := {operator: table[operator] for operator in unknown if operator in table}):
            break
        simpler = graph.run_decompositions(parts)
        if any(spec.kind != OutputKind.USER_OUTPUT for spec in simpler.graph_signature.output_specs):
            break  # the model changes a buffer or an input, which the graph then returns
        graph = simpler
    _restore_batch_norm(graph.graph)
    return graph


def _restore_batch_norm(graph: fx.Graph) -> None:
    """Restore BatchNorm, which torch replaces during any decomposition by operations that cannot be fused."""
    for node in list(graph.nodes):
        if node.target is not aten._native_batch_norm_legit_no_training.default:
            continue
        *tensors, momentum, eps = node.args
        with graph.inserting_before(node):
            whole = graph.call_function(aten.batch_norm.default, (*tensors, False, momentum, eps, False))
        whole.meta = {**node.meta, "val": node.meta["val"][0]}
        for output in list(node.users):
            if output.args[1] == 0:
                output.replace_all_uses_with(whole)
            if not output.users:
                graph.erase_node(output)
        if not node.users:
            graph.erase_node(node)
