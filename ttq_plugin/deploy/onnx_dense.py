"""A module as an ONNX graph with float weights, and ONNX graphs run by onnxruntime."""

from __future__ import annotations

import copy
import logging
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ttq_plugin.deploy.extras import need
from ttq_plugin.errors import InputError

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 25
"""The first whose DequantizeLinear takes two-bit codes."""

INPUT, OUTPUT = "x", "logits"


def to_onnx(model: nn.Module, example_input: Tensor) -> ModelProto:
    """The graph in evaluation mode, batch size open; BatchNorm is folded into the convolution before it.

    Args:
        model: any module of one input and one output that torch.export takes; left as it is.
        example_input: samples (batch, ...) of the shape that will come; their values do not matter.

    Returns:
        A checked model without notes of where it was made (torch writes the source files' paths into it).

    Raises:
        InputError: if a package is missing, torch cannot export the module, or the module fixes its batch size.
    """
    onnx, _ = need("onnx", "onnxscript")
    plain = copy.deepcopy(model).cpu().eval()
    # Two samples: torch takes a batch of one for a constant.
    example = example_input[:1].cpu().expand(2, *example_input.shape[1:])
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                plain,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise InputError(f"{type(model).__name__} cannot be exported to ONNX: {reason}") from None
    finally:
        logger.setLevel(level)
    assert program is not None
    proto: ModelProto = program.model_proto
    if not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise InputError(
            f"{type(model).__name__} fixes its batch size where it is exported; take sizes from x.shape, not len(x)."
        )
    _forget_origin(proto)
    proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _forget_origin(proto: ModelProto) -> None:
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


class OnnxModule(nn.Module):
    """An ONNX graph as a module, run by onnxruntime on the CPU.

    Args:
        proto: the graph, with one input and one output.
        threads: of the computation.
        unpack: multiply two-bit weights out when the graph is loaded, which is faster, instead of in every run, which
            keeps them two bits wide in memory; it must be False for int8 graphs, which would become float ones.
    """

    def __init__(self, proto: ModelProto, *, threads: int = 1, unpack: bool = False) -> None:
        super().__init__()
        [onnxruntime] = need("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if unpack:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self.session: Any = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def forward(self, x: Tensor) -> Tensor:
        """The graph's output of a batch."""
        [result] = self.session.run(None, {self.session.get_inputs()[0].name: x.detach().cpu().numpy()})
        return torch.from_numpy(result)
