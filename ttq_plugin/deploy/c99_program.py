"""A module as a list of steps over flat buffers: what C code is written from.

torch.export gives the graph with its shapes; batch is 1. A value is a view (offset and strides) of a buffer, so that
reshaping and transposing cost nothing; a convolution or linear layer takes what follows it along.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ttq_plugin.deploy.c99_steps import Buffer, Program, Step, View, arguments, geometry, pair
from ttq_plugin.errors import InputError

IDENTITIES = {"dropout", "feature_dropout", "alpha_dropout"}
VIEWS = {
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "transpose", "permute", "t", "select", "slice"),
    *("unsqueeze", "squeeze", "expand", "contiguous", "detach", "alias"),
}


def trace(model: nn.Module, example_input: Tensor) -> Program:
    """The steps of the module in evaluation mode on one sample.

    Args:
        model: any module of one tensor that torch.export takes; left as it is.
        example_input: (batch, ...); the first sample's shape is taken.

    Returns:
        The program.

    Raises:
        InputError: if torch cannot export the module, or it uses an operation that has no C code.
    """
    plain = copy.deepcopy(model).cpu().float().eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(plain, (example_input[:1].cpu().float(),))
    except Exception as error:  # torch raises what the module's own code raised, and many kinds of its own
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{type(model).__name__} cannot be exported to C: {reason}") from None
    return _Builder(exported, type(model).__name__).build()


class _Builder:
    def __init__(self, exported: torch.export.ExportedProgram, name: str) -> None:
        self.graph, self.name = exported.graph, name
        signature = exported.graph_signature
        self.names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self.tensors = {key: value.detach() for key, value in exported.state_dict.items()}
        self.tensors |= {k: v.detach() for k, v in exported.constants.items() if isinstance(v, Tensor)}
        self.values: dict[fx.Node, View] = {}
        self.absorbed: set[fx.Node] = set()
        self.steps: list[Step] = []

    def build(self) -> Program:
        sample: Buffer | None = None
        result: View | None = None
        for node in self.graph.nodes:
            if node.op == "placeholder" and node.name not in self.names:
                sample = Buffer(node.meta["val"].numel())
                self.values[node] = self._whole(sample, node.meta["val"].shape)
            elif node.op == "placeholder":
                name = self.names[node.name]
                buffer = Buffer(node.meta["val"].numel(), name)
                self.tensors[name] = self.tensors[name].contiguous()
                self.values[node] = self._whole(buffer, node.meta["val"].shape)
            elif node.op == "call_function" and node not in self.absorbed:
                self._step(node)
            elif node.op == "output":
                outputs = node.args[0]
                if len(outputs) != 1 or outputs[0] not in self.values:
                    raise InputError(f"{self.name} must return one tensor to be exported to C.")
                result = self.values[outputs[0]]
        assert sample is not None and result is not None
        whole = result.contiguous and result.meta.numel() == result.buffer.size
        if not whole or result.buffer.constant or result.buffer is sample:
            result = self._copied(result)
        return Program(self.steps, sample, result, self.tensors)

    def _step(self, node: fx.Node) -> None:
        kind = node.target._schema.name.split("::")[1]  # type: ignore[union-attr]
        given = arguments(node)
        if kind in IDENTITIES:
            self.values[node] = self._value(node.args[0])
        elif kind in VIEWS:
            self._view(node)
        elif kind in STEPS:
            STEPS[kind](self, node, given)
        else:
            raise InputError(f"{self.name} uses {kind}, for which there is no C code; there is for {', '.join(KNOWN)}.")

    # Values.

    def _whole(self, buffer: Buffer, shape: Any) -> View:
        return View(buffer, torch.empty(tuple(shape), device="meta"))

    def _new(self, node_or_shape: Any) -> View:
        shape = node_or_shape.meta["val"].shape if isinstance(node_or_shape, fx.Node) else node_or_shape
        return self._whole(Buffer(torch.Size(shape).numel()), shape)

    def _value(self, node: Any) -> View:
        return self.values[node]

    def _copied(self, view: View) -> View:
        """A contiguous copy, made by a step."""
        target = self._new(view.meta.shape)
        self.steps.append(Step("map", target, [view], {"what": "COPY"}))
        return target

    def _packed(self, view: View) -> View:
        return view if view.contiguous else self._copied(view)

    def _view(self, node: fx.Node) -> None:
        """Shape, strides and offset as torch itself finds them on tensors without data; a copy where it copies."""
        source = self._value(node.args[0])
        rest = node.args[1:]
        seen = node.target(source.meta, *rest, **node.kwargs)  # type: ignore[operator]
        if seen.untyped_storage()._cdata != source.meta.untyped_storage()._cdata:
            source = self._copied(source)
            seen = node.target(source.meta, *rest, **node.kwargs)  # type: ignore[operator]
        self.values[node] = View(source.buffer, seen)

    # Steps.

    def _layer(self, node: fx.Node, given: dict[str, Any]) -> None:
        """A convolution or linear layer and the BatchNorm, activation and pooling that nothing else sees before."""
        linear = "stride" not in given
        more: dict[str, Any] = {
            "weight": self.names[given["weight"].name],
            "bias": self._named(given["bias"]),
            "norm": None,
            "slope": 1.0,
            "pool": None,
        }
        source = self._value(given["input"])
        more |= self._rows(source) if linear else geometry(node, given, source.meta)
        last = node
        while len(last.users) == 1:
            [follower] = last.users
            if not self._absorb(follower, more, linear):
                break
            self.absorbed.add(follower)
            last = follower
        source = more.pop("source", source)
        output = self._new(last)
        self.steps.append(Step("layer", output, [source], more))
        self.values[last] = output

    def _absorb(self, node: fx.Node, more: dict[str, Any], linear: bool) -> bool:
        """Whether the node becomes part of the layer before it."""
        if node.op != "call_function":
            return False
        kind = node.target._schema.name.split("::")[1]  # type: ignore[union-attr]
        given = arguments(node)
        if kind in IDENTITIES:
            return True
        if kind == "batch_norm" and not linear and not more["norm"] and more["slope"] == 1 and not more["pool"]:
            if given["running_mean"] is None:  # the batch's own statistics, which one sample has not
                return False
            parts = ("weight", "bias", "running_mean", "running_var")
            more["norm"] = {**{part: self._named(given[part]) for part in parts}, "eps": given["eps"]}
            return True
        if kind in ("relu", "leaky_relu") and more["slope"] == 1:
            slope = float(given.get("negative_slope", 0.0))
            # Pooling is done first: a larger value has a larger activation, unless the slope is negative.
            if slope < 0 or slope == 1:
                return False
            more["slope"] = slope
            return True
        if kind in ("max_pool1d", "max_pool2d") and not linear and not more["pool"]:
            more["pool"] = self._pool(given)
            return True
        return False

    def _pool(self, given: dict[str, Any]) -> dict[str, tuple[int, int]]:
        size = pair(given["kernel_size"])
        if any(pair(given["padding"], 0)) or pair(given["dilation"]) != (1, 1) or given["ceil_mode"]:
            raise InputError(f"{self.name}: max pooling with padding, dilation or ceil_mode has no C code.")
        return {"size": size, "stride": pair(given["stride"] or given["kernel_size"])}

    def _named(self, node: Any) -> str | None:
        return None if node is None else self.names[node.name]

    def _rows(self, source: View) -> dict[str, Any]:
        """A linear layer as a 1x1 convolution whose image is the rows it is applied to, one below the other."""
        shape = source.meta.shape
        rows = source.meta.numel() // shape[-1]
        try:
            flat = source.meta.view(rows, shape[-1])
        except RuntimeError:
            source = self._copied(source)
            flat = source.meta.view(rows, shape[-1])
        return {
            **{"source": View(source.buffer, flat), "groups": 1, "channels": shape[-1], "rows": rows, "columns": 1},
            **{"steps": (flat.stride(1), flat.stride(0), 1), "kernel": (1, 1), "stride": (1, 1)},
            **{"padding": (0, 0), "dilation": (1, 1), "transposed_output": True, "out": (rows, 1)},
        }

    def _combined(self, what: str) -> Callable[[fx.Node, dict[str, Any]], None]:
        def step(node: fx.Node, given: dict[str, Any]) -> None:
            if given.get("alpha", 1) != 1:
                raise InputError(f"{self.name} uses add with alpha={given['alpha']}, for which there is no C code.")
            inputs = [self._operand(given["self"]), self._operand(given["other"])]
            output = self._new(node)
            self.steps.append(Step("map", output, inputs, {"what": what}))
            self.values[node] = output

        return step

    def _operand(self, value: Any) -> View:
        """A node's value, or a number as a constant of its own."""
        if isinstance(value, fx.Node):
            return self._value(value)
        name = f"number {float(value)!r}"
        self.tensors[name] = torch.tensor([float(value)])
        return self._whole(Buffer(1, name), ())

    def _add(self, node: fx.Node, given: dict[str, Any]) -> None:
        self._combined("ADD")(node, given)

    def _multiply(self, node: fx.Node, given: dict[str, Any]) -> None:
        self._combined("MULTIPLY")(node, given)

    def _cat(self, node: fx.Node, given: dict[str, Any]) -> None:
        output = self._new(node)
        at = 0
        for part in given["tensors"]:
            view = self._value(part)
            length = view.meta.shape[given["dim"]]
            place = output.meta.narrow(given["dim"], at, length)
            self.steps.append(Step("map", View(output.buffer, place), [view], {"what": "COPY"}))
            at += length
        self.values[node] = output

    def _activate(self, node: fx.Node, given: dict[str, Any]) -> None:
        source, output = self._packed(self._value(given["self"])), self._new(node)
        slope = float(given.get("negative_slope", 0.0))
        self.steps.append(Step("activate", output, [source], {"slope": slope}))
        self.values[node] = output

    def _normalise(self, node: fx.Node, given: dict[str, Any]) -> None:
        source, output = self._packed(self._value(given["input"])), self._new(node)
        constants = {"weight": self._named(given["weight"]), "bias": self._named(given["bias"])}
        width = torch.Size(given["normalized_shape"]).numel()
        self.steps.append(Step("normalise", output, [source], {**constants, "width": width, "eps": given["eps"]}))
        self.values[node] = output

    def _attend(self, node: fx.Node, given: dict[str, Any]) -> None:
        if given["attn_mask"] is not None or given["is_causal"] or given.get("enable_gqa"):
            raise InputError(f"{self.name} uses attention with a mask, for which there is no C code.")
        views = [self._value(given[name]) for name in ("query", "key", "value")]
        if any(view.meta.dim() != 4 for view in views):
            raise InputError(f"{self.name} uses attention without heads, for which there is no C code.")
        scale = given["scale"] or views[0].meta.shape[-1] ** -0.5
        output = self._new(node)
        self.steps.append(Step("attend", output, views, {"scale": scale}))
        self.values[node] = output


STEPS: dict[str, Any] = {
    "add": _Builder._add,
    "mul": _Builder._multiply,
    "cat": _Builder._cat,
    "conv1d": _Builder._layer,
    "conv2d": _Builder._layer,
    "linear": _Builder._layer,
    "relu": _Builder._activate,
    "leaky_relu": _Builder._activate,
    "layer_norm": _Builder._normalise,
    "scaled_dot_product_attention": _Builder._attend,
}
KNOWN = [*STEPS, "batch_norm, max_pool1d, max_pool2d after a convolution", "views and dropout"]
