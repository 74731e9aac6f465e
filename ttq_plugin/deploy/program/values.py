"""The values of a program under construction: buffers, constants, and steps that copy or map them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from ttq_plugin.deploy.program.operators import kind_of
from ttq_plugin.deploy.program.steps import Buffer, Step, View
from ttq_plugin.errors import InputError


class Values:
    """What the nodes of a graph gave so far, and the steps that make it.

    Args:
        name: The model's name, for messages.
        tensors: Constants by name.

    Attributes:
        steps: The steps that were added.
        tensors: Constants by name.
        values: What each node gave.
    """

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.name = name
        self.tensors = dict(tensors)
        self.values: dict[fx.Node, Any] = {}
        self.steps: list[Step] = []

    def whole(self, buffer: Buffer, shape: Any) -> View:
        """All of a buffer."""
        return View(buffer, torch.empty(tuple(shape), device="meta"))

    def part(self, buffer: Buffer, at: int, shape: Any) -> View:
        """Part of a buffer, from a place on."""
        count = torch.Size(shape).numel()
        return View(buffer, torch.empty(buffer.size, device="meta")[at : at + count].view(tuple(shape)))

    def new(self, node_or_shape: Any) -> View:
        """A new buffer for a node, or of a shape."""
        shape = node_or_shape.meta["val"].shape if isinstance(node_or_shape, fx.Node) else node_or_shape
        return self.whole(Buffer(torch.Size(shape).numel()), shape)

    def value(self, node: Any) -> View:
        """The value of a node, or a number as a new constant."""
        if isinstance(node, fx.Node):
            view: View = self.values[node]
            return view
        return self.constant(f"number {float(node)!r}", torch.tensor(float(node)))

    def constant(self, name: str, values: Tensor) -> View:
        """A tensor as a constant under a name."""
        self.tensors[name] = values.detach().contiguous()
        return self.whole(Buffer(values.numel(), name), values.shape)

    def name_of(self, node: fx.Node | None) -> str | None:
        """Name of the constant that a node is; None for None."""
        if node is None:
            return None
        view: View = self.values[node]
        if view.buffer.constant is None:
            raise self.missing(node, "a computed weight or bias")
        if view.contiguous and view.meta.numel() == view.buffer.size:
            return view.buffer.constant
        return self.constant(f"{view.buffer.constant} as {node.name}", self.actual(view)).buffer.constant

    def actual(self, view: View) -> Tensor:
        """The numbers of a constant."""
        assert view.buffer.constant is not None
        flat, meta = self.tensors[view.buffer.constant], view.meta
        return flat.as_strided(meta.shape, meta.stride(), meta.storage_offset())

    def copy(self, view: View, target: View) -> View:
        """A step that copies."""
        self.steps.append(Step("map", target, [view], {"what": "COPY"}))
        return target

    def copied(self, view: View) -> View:
        """A contiguous copy."""
        return self.copy(view, self.new(view.meta.shape))

    def packed(self, view: View) -> View:
        """The value in row-major order."""
        return view if view.contiguous else self.copied(view)

    def map(self, what: str, inputs: list[View], into: View | None = None) -> View:
        """A step that does something to each number, or to each pair.

        Args:
            what: Name of the operation in C.
            inputs: One or two, of shapes that broadcast.
            into: Where to write it; None for a new buffer.

        Returns:
            The result.
        """
        output = into or self.new(torch.broadcast_shapes(*(view.meta.shape for view in inputs)))
        self.steps.append(Step("map", output, inputs, {"what": what}))
        return output

    def missing(self, node: fx.Node, what: str) -> InputError:
        """The error that an operation has neither C code nor an integer form.

        Args:
            node: The operation.
            what: What the message calls it.

        Returns:
            The error.
        """
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = str(stack[-1][0]).split("model", 1)[-1].strip(".") if stack else ""
        where = f" in its layer {path}" if path else ""
        whole = node.meta.get("original_aten")
        if isinstance(whole, torch._ops.OpOverload) and what == kind_of(node) and whole is not node.target:
            what = whole._schema.name.split("::")[1]  # which was taken apart
        return InputError(
            f"{self.name} uses {what}{where}, which has neither C code nor an integer form; export it to ONNX instead."
        )
