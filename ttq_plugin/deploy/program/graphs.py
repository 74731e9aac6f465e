"""The two ways to make a graph of a model: of torch's operators for given shapes, or of its modules for any shapes.

C code and integer networks need every shape and every number, so they are made from the first. The runtime must take
batches and lengths that come later, and leaves to torch whatever it does not know, so it is made from the second. What
a node of either graph does is read by the same tables, and fusion is decided by the same rule.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from ttq_plugin.deploy.flat import Spread
from ttq_plugin.deploy.program.operators import hooked


def exported(
    flat: nn.Module, found: list[Tensor], shapes: Any = None, *, strict: bool = False
) -> torch.export.ExportedProgram:
    """The graph of a model's operators.

    Args:
        flat: Takes one list of tensors.
        found: The tensors.
        shapes: Which of their sizes are open, as torch.export wants it; None for none.
        strict: Whether the model's code is read rather than run.

    Returns:
        The graph; if torch cannot make it, any error is raised.
    """
    return torch.export.export(flat, (found,), dynamic_shapes=shapes, strict=strict)


def traced(model: nn.Module, example: Any) -> fx.GraphModule:
    """The graph of a model's modules, functions and methods.

    Tracing does not see branches that depend on what kind of object the model is given; the caller must compare.

    Args:
        model: The model, in evaluation mode; the graph shares its modules.
        example: Inputs; what is no tensor in them becomes part of the graph.

    Returns:
        A graph that takes the list of the inputs' tensors; to make it fails with any error where torch.fx cannot.
    """
    root = Spread(model, example)
    return fx.GraphModule(root, _Tracer().trace(root))


class _Tracer(fx.Tracer):
    """Looks into whatever is no module of torch's own, as torch.fx does, but not into layers with hooks."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or (hooked(m) and not any(m.children()))
