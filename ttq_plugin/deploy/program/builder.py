"""Goes through an exported graph and collects the steps of its operations."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ttq_plugin.deploy.flat import PREFIX
from ttq_plugin.deploy.program.operators import IDLE, Operator, arguments, base_of, is_operator, kind_of
from ttq_plugin.deploy.program.steps import Buffer, Program, View
from ttq_plugin.deploy.program.values import Values
from ttq_plugin.errors import InputError

Operation = Callable[["Builder", fx.Node, dict[str, Any]], Any]
"""Adds the steps of a node, which has these arguments, and returns its value; a layer sets it itself."""


WITHOUT_STEPS = ("_assert", "sym_")
"""What operators on shapes begin with, which are known here."""


@dataclass(frozen=True)
class Operations:
    """What can be lowered, by the names of torch's operators.

    Attributes:
        identities: Operators that do nothing in evaluation mode.
        views: Operators that only look at the same numbers in another way.
        layers: Convolutions and linear layers, which take along what follows them.
        others: The rest.
    """

    identities: Collection[str]
    views: Collection[str]
    layers: Mapping[str, Operation]
    others: Mapping[str, Operation]

    def know(self, node: fx.Node) -> bool:
        """Whether there are steps for a node that calls one of torch's operators."""
        kind = kind_of(node)
        known = (self.identities, self.views, self.layers, self.others)
        return any(base_of(kind) in each for each in known) or kind.startswith(WITHOUT_STEPS)


class Builder(Values):
    """Goes through an exported graph; operations add their steps to it.

    Args:
        exported: The graph.
        name: Name of the model, for messages.
        operations: What can be lowered.

    Attributes:
        padding: Rows above and columns to the left that convolutions add for a node that is padded with zeros.
    """

    def __init__(self, exported: torch.export.ExportedProgram, name: str, operations: Operations) -> None:
        self.graph, self.operations = exported.graph, operations
        signature = exported.graph_signature
        names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self.names = {node: key.removeprefix(PREFIX) for node, key in names.items()}
        found = {**exported.state_dict, **exported.constants}
        super().__init__(name, {k.removeprefix(PREFIX): v.detach() for k, v in found.items() if isinstance(v, Tensor)})
        self.absorbed: set[fx.Node] = set()
        self.done: set[fx.Node] = set()
        self.padding: dict[fx.Node, tuple[int, int]] = {}

    def build(self) -> Program:
        """All steps.

        Returns:
            The program.

        Raises:
            InputError: If there is an operation without C code.
        """
        given = [n for n in self.graph.nodes if n.op == "placeholder" and n.name not in self.names]
        sizes = [node.meta["val"].numel() for node in given]
        sample = self.sample = Buffer(sum(sizes))
        for place, node in enumerate(given):
            self.values[node] = self.part(sample, sum(sizes[:place]), node.meta["val"].shape)
        results: list[View] = []
        for node in self.graph.nodes:
            if node.op == "placeholder" and node.name in self.names:
                name = self.names[node.name]
                self.tensors[name] = self.tensors[name].contiguous()
                self.values[node] = self.whole(Buffer(node.meta["val"].numel(), name), node.meta["val"].shape)
            elif node.op == "call_function" and node not in self.absorbed:
                self._step(node)
            elif node.op == "output":
                results = [self.values[each] for each in node.args[0] if isinstance(each, fx.Node)]
            self.done.add(node)
        if not results:
            raise InputError(f"{self.name} must return a tensor to be exported to C.")
        shapes = [tuple(node.meta["val"].shape[1:]) for node in given], [tuple(r.meta.shape[1:]) for r in results]
        return Program(self.steps, sample, self._output(results, sample), self.tensors, shapes)

    def _output(self, results: list[View], sample: Buffer) -> View:
        """The only result if it has its own buffer; else a concatenated copy of all results."""
        [first, *others] = results
        whole = first.contiguous and first.meta.numel() == first.buffer.size and not first.buffer.constant
        if whole and not others and first.buffer is not sample:
            return first
        output = Buffer(sum(result.meta.numel() for result in results))
        at = 0
        for result in results:
            self.copy(result, self.part(output, at, result.meta.shape))
            at += result.meta.numel()
        return self.whole(output, (output.size,))

    def _step(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            several, place = node.args
            assert isinstance(several, fx.Node)
            self.values[node] = self.values[several][place]
            if self.values[node] is None and node.users:
                raise self.missing(several, f"output {place} of {kind_of(several)}")
            return
        if not is_operator(node):
            raise self.missing(node, str(node.target))
        kind = kind_of(node)
        if kind.startswith(WITHOUT_STEPS):
            return
        base = base_of(kind)
        given, known = arguments(node), self.operations
        if base not in known.views and self._constant(node):
            self.values[node] = self._computed(node)
        elif base in known.identities:
            if base in IDLE and not Operator(base, given).idle:
                raise self.missing(node, f"{kind} that stays on in evaluation mode")
            self.values[node] = self.value(node.args[0])
        elif base in known.views:
            self._view(node)
        elif base in known.layers:
            known.layers[base](self, node, given)
        elif base in known.others:
            self.values[node] = known.others[base](self, node, given)
            if kind != base:
                self._write_back(node)
        else:
            raise self.missing(node, kind)

    def _view(self, node: fx.Node) -> None:
        """Shape, strides and offset as torch itself finds them on tensors without data; a copy where it copies."""
        source = self.value(node.args[0])
        rest = fx.node.map_arg(node.args[1:], lambda each: self.value(each).meta)
        try:
            seen = node.target(source.meta, *rest, **node.kwargs)  # type: ignore[operator]
            first = seen[0] if isinstance(seen, tuple | list) else seen
            apart = first.untyped_storage()._cdata != source.meta.untyped_storage()._cdata
        except RuntimeError:  # what lies otherwise here than in torch cannot be seen so
            apart = True
        if apart:
            source = self.copied(source)
            seen = node.target(source.meta, *rest, **node.kwargs)  # type: ignore[operator]
        several = isinstance(seen, tuple | list)
        self.values[node] = [View(source.buffer, s) for s in seen] if several else View(source.buffer, seen)

    def _later(self, buffer: Buffer, node: fx.Node) -> list[fx.Node]:
        """Values in a buffer that something after a node reads."""
        found = []
        for other, value in self.values.items():
            views = value if isinstance(value, list) else [value]
            if other is not node and any(view is not None and view.buffer is buffer for view in views):
                if any(user is not node and user not in self.done for user in other.users):
                    found.append(other)
        return found

    def own(self, node: fx.Node, value: Any) -> View | None:
        """Where an operation on each number may write its result: over its operand, if nothing reads that any more.

        Args:
            node: The operation.
            value: Its operand, a node or a number.

        Returns:
            The operand's place, or None.
        """
        if not isinstance(value, fx.Node) or self.values[value].meta.shape != node.meta["val"].shape:
            return None
        view: View = self.values[value]
        others = [self.values[other] for other in node.all_input_nodes if other is not value]
        if any(isinstance(other, View) and other.buffer is view.buffer for other in others):
            return None  # a transpose of the operand, say, which would be written over before it is read
        whole = view.contiguous and view.meta.numel() == view.buffer.size
        kept = view.buffer.constant is not None or view.buffer is self.sample
        return view if whole and not kept and not self._later(view.buffer, node) else None

    def _write_back(self, node: fx.Node) -> None:
        """An operation in place: later readers of the same memory must see the result."""
        operand = node.args[0]
        assert isinstance(operand, fx.Node)
        target: View = self.values[operand]
        later = self._later(target.buffer, node)
        if later and (target.buffer.constant or any(other.op == "placeholder" for other in later)):
            raise InputError(
                f"{self.name} changes an input or a parameter in place, which has "
                "neither C code nor an integer form; clone it first."
            )
        if later and self.values[node].buffer is not target.buffer:
            self.values[node] = self.copy(self.values[node], target)

    def _constant(self, node: fx.Node) -> bool:
        """Whether an operation can be done beforehand."""
        if torch.Tag.nondeterministic_seeded in node.target.tags:  # type: ignore[union-attr]
            return False
        views = [self.values.get(each) for each in node.all_input_nodes]
        return all(isinstance(view, View) and view.buffer.constant for view in views)

    def _computed(self, node: fx.Node) -> Any:
        given = fx.node.map_arg((node.args, node.kwargs), lambda each: self.actual(self.values[each]))
        with torch.no_grad():
            found = node.target(*given[0], **given[1])  # type: ignore[operator]
        if isinstance(found, Tensor):
            return self.constant(f"{node.name} beforehand", found)
        return [self.constant(f"{node.name} beforehand {place}", each) for place, each in enumerate(found)]
