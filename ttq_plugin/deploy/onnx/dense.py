"""A module as an ONNX graph with float weights, and ONNX graphs run by onnxruntime."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ttq_plugin.core.model.copying import copied
from ttq_plugin.deploy.extras import need
from ttq_plugin.deploy.flat import PREFIX, Flat, exporting, input_names, output_names, reason
from ttq_plugin.deploy.onnx.masks import spread_masks
from ttq_plugin.deploy.program.graphs import exported
from ttq_plugin.errors import InputError, first_line
from ttq_plugin.support.inputs import call, map_tensors, named_tensors, repeated, tensors, to_device

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 25
"""The first whose DequantizeLinear takes two-bit codes."""


def to_onnx(model: nn.Module, example_input: Any) -> ModelProto:
    """The graph in evaluation mode, batch size open; BatchNorm is folded into the convolution before it.

    An input or output that lies in a dict is named by its key, of deeper nestings by the keys on the way, joined by
    dots; a positional argument by the parameter of the model's ``forward``. A model's only tensor is ``x``, its only
    output ``logits``.

    Args:
        model: Any module that torch.export takes; left as it is.
        example_input: Samples (batch, ...) of the shape that will come; their values do not matter. A tuple is the
            positional arguments, a dict the keyword arguments, anything else the only argument.

    Returns:
        A checked model without notes of where it was made (torch writes the source files' paths into it).

    Raises:
        InputError: If a package is missing, torch cannot export the module, or the module fixes its batch size.
    """
    onnx, _ = need("onnx", "onnxscript")
    plain = copied(model).cpu().eval()
    # Two samples: torch takes a batch of one for a constant.
    example = repeated(to_device(example_input, "cpu"), 2)
    try:
        with torch.inference_mode():
            outputs = call(plain, map_tensors(Tensor.clone, example))
    except Exception as error:  # whatever the model's own code raises
        raise InputError(f"{type(model).__name__} does not take the example input: {first_line(error)}.") from error
    given = input_names(model, example)
    # A graph has one name for one thing, and an output may be called as an input is.
    names = given, [f"{name}.output" if name in given else name for name in output_names(outputs)]
    flat, found, said = Flat(plain, example), tensors(example), type(model).__name__
    proto = _exported(flat, found, names, said)
    if _fixed(proto, found):
        with contextlib.suppress(InputError):
            proto = _exported(flat, found, names, said, strict=True)
    if _fixed(proto, found):
        raise InputError(f"{said} fixes its batch size on export; take sizes from x.shape instead of len(x).")
    _forget_origin(proto)
    _forget_wrapping(proto)
    spread_masks(proto)
    proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:  # of several kinds
        raise InputError(
            f"{said} cannot be exported to ONNX: torch writes a graph that is not valid ONNX ({first_line(error)}); "
            "run the model with TernaryRuntime."
        ) from None
    return proto


def _batched(tensor: Tensor) -> bool:
    return bool(tensor.dim()) and len(tensor) == 2


def _exported(
    flat: nn.Module, found: list[Tensor], names: tuple[list[str], list[str]], model: str, strict: bool = False
) -> ModelProto:
    """Export with torch, which only reports why it failed; ``strict`` reads the code and supports ``len(x)``."""
    batch = torch.export.Dim("batch")
    shapes = ([{0: batch} if _batched(tensor) else {} for tensor in found],)
    try:
        with exporting():
            given: Any = exported(flat, found, shapes, strict=True) if strict else flat
            program = torch.onnx.export(
                given,
                () if strict else (found,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=None if strict else shapes,
                input_names=names[0],
                output_names=names[1],
                verbose=False,
            )
    except Exception as error:  # of torch's many kinds, and whatever the model's own code raises
        raise InputError(f"{model} cannot be exported to ONNX: {reason(error)}.") from None
    assert program is not None
    proto: ModelProto = program.model_proto
    return proto


def _fixed(proto: ModelProto, found: list[Tensor]) -> bool:
    """Whether some input's batch size is a number."""
    given = zip(proto.graph.input, found, strict=True)
    return any(_batched(t) and not i.type.tensor_type.shape.dim[0].dim_param for i, t in given)


def _forget_origin(proto: ModelProto) -> None:
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def _forget_wrapping(proto: ModelProto) -> None:
    """The tensors' names are the model's own."""
    short = {t.name: t.name.removeprefix(PREFIX) for t in proto.graph.initializer if t.name.startswith(PREFIX)}
    taken = {name for node in proto.graph.node for name in node.output} | {i.name for i in proto.graph.input}
    short = {name: new for name, new in short.items() if new not in taken}
    for tensor in (*proto.graph.initializer, *proto.graph.value_info):
        tensor.name = short.get(tensor.name, tensor.name)
    for node in proto.graph.node:
        node.input[:] = [short.get(name, name) for name in node.input]


def feeds(names: list[str], positional: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Tensor]:
    """Assign tensors to a graph's inputs.

    Args:
        names: Names of the graph's inputs, in order.
        positional: Tensors in that order, in any nesting.
        named: Tensors by name; those of nestings by the keys on the way, joined by dots.

    Returns:
        Each input's tensor.

    Raises:
        InputError: If these are not the graph's inputs.
    """
    given = tensors(positional)
    found = dict(zip(names, given, strict=False))
    found |= {".".join(path): tensor for path, tensor in named_tensors(named)}
    if found.keys() != set(names) or len(given) > len(names):
        words = [f"{len(given)} tensors"] if given else []
        words += [".".join(path) for path, _ in named_tensors(named)]
        raise InputError(f"the graph's inputs are {', '.join(names)}, got {', '.join(words) or 'none'}.")
    return found


class OnnxModule(nn.Module):
    """An ONNX graph as a module, run by onnxruntime on the CPU.

    Args:
        proto: The graph.
        threads: Number of threads of the computation.
        unpack: Multiply two-bit weights out when the graph is loaded, which is faster, instead of in every run, which
            keeps them two bits wide in memory; it must be False for int8 graphs, which would become float ones.

    Raises:
        InputError: If onnxruntime is missing, or does not accept the graph.
    """

    def __init__(self, proto: ModelProto, *, threads: int = 1, unpack: bool = False) -> None:
        super().__init__()
        [onnxruntime] = need("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if unpack:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self.session: Any = onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common class of their own
            raise InputError(f"onnxruntime does not accept the graph: {first_line(error)}.") from error
        self.names = [given.name for given in self.session.get_inputs()]
        self.results = [result.name for result in self.session.get_outputs()]

    def forward(self, *positional: Any, **named: Any) -> Any:
        """Run a batch.

        Args:
            positional: The graph's inputs in order, in any nesting.
            named: The same by their names in the graph.

        Returns:
            The graph's output; a dict of them by name, where there are several.

        Raises:
            InputError: If these are not the graph's inputs.
        """
        given = feeds(self.names, positional, named)
        arrays = self.session.run(None, {name: tensor.detach().cpu().numpy() for name, tensor in given.items()})
        if len(arrays) == 1:
            return torch.from_numpy(arrays[0])
        return {name: torch.from_numpy(array) for name, array in zip(self.results, arrays, strict=True)}
