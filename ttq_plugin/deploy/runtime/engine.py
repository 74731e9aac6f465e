"""Runs a whole model in onnxruntime, as an alternative to this project's kernels and torch.

onnxruntime fuses what lies between the layers (depthwise convolutions, activations, additions), which pays in networks
of many small layers. It multiplies ternary weights as floats.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ttq_plugin.deploy.flat import Flat, exporting
from ttq_plugin.deploy.onnx.dense import to_onnx
from ttq_plugin.deploy.runtime.agreement import ROUNDED, asked, disagreement
from ttq_plugin.deploy.runtime.spread import reads_values
from ttq_plugin.support.inputs import batch_size, call, map_tensors, repeated, tensors

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

OPSET = 17
"""What the tracing exporter writes; it has all that the networks of this field need."""

UNDEFINED = (float("nan"), float("inf"), -float("inf"), 3e38)
"""Numbers that onnxruntime may treat otherwise than torch does, by its rules for maxima."""


class Engine:
    """A model that onnxruntime runs on one thread, with an open batch size.

    Args:
        session: The session.
        names: Names of the inputs' tensors in order, of which the session need not take all.
        outputs: What the model returns for some batch.

    Attributes:
        careful: Whether undefined and infinite inputs give other outputs than in torch.
    """

    def __init__(self, session: InferenceSession, names: list[str], outputs: Any) -> None:
        self.session, self.careful = session, True
        used = {given.name for given in session.get_inputs()}
        self._places = [(place, name) for place, name in enumerate(names) if name in used]
        self._results = [result.name for result in session.get_outputs()]
        self._outputs = outputs
        self._keys = None  # of outputs in a plain dict without nestings, which are put together faster
        if type(outputs) is dict and all(isinstance(value, Tensor) for value in outputs.values()):
            self._keys = list(outputs)
        # Without the checks of the session's own ``run``, which take longer than a small network.
        self._run: Callable[..., list[Any]] = getattr(session, "_sess", session).run

    def __call__(self, inputs: Any) -> Any:
        """Run a batch.

        Args:
            inputs: Inputs of the example's form and sizes, except for the batch size.

        Returns:
            What the model returns.
        """
        found = [inputs] if isinstance(inputs, Tensor) else _flat(inputs)
        arrays = self._run(self._results, {name: found[place].numpy() for place, name in self._places}, None)
        if isinstance(self._outputs, Tensor):
            return torch.from_numpy(arrays[0])
        results = iter([torch.from_numpy(array) for array in arrays])
        if self._keys is not None:
            return dict(zip(self._keys, results, strict=True))
        return map_tensors(lambda _: next(results), self._outputs)


def engine_of(model: nn.Module, example: Any) -> Engine | None:
    """Let onnxruntime run a model, if it gives what the model gives.

    Args:
        model: The model, in evaluation mode.
        example: Inputs of it. All that is no tensor, and all sizes but the batch's, are fixed.

    Returns:
        None if onnxruntime is not installed, cannot run the model, or gives other outputs.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    with torch.inference_mode(False), torch.no_grad():  # exporters do not take tensors of that mode
        example = map_tensors(Tensor.clone, example)
        outputs = call(model, map_tensors(Tensor.clone, example))
        # A trace keeps one of the ways that the model's code can go; the newer exporter refuses such code.
        for graph in (_exported,) if reads_values(model, example) else (_traced, _exported):
            with contextlib.suppress(Exception):  # whatever is raised at a model that is not known
                proto, names = graph(model, example)
                session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
                engine = Engine(session, names, outputs)
                if disagreement(model, engine, asked(model, example), ROUNDED) is None:
                    engine.careful = disagreement(model, engine, _undefined(example), ROUNDED) is not None
                    return engine
    return None


def _traced(model: nn.Module, example: Any) -> tuple[bytes, list[str]]:
    """The graph by torch's older exporter, which takes a tenth of the newer one's time, and its inputs' names."""
    example = repeated(example, max(2, batch_size(example)))
    found = tensors(example)
    names = [f"input_{place}" for place in range(len(found))]
    together = [each.dim() > 0 and len(each) == batch_size(example) for each in found]
    buffer = io.BytesIO()
    with exporting():
        torch.onnx.export(
            Flat(model, example),
            (found,),
            buffer,  # type: ignore[arg-type]  # this exporter writes into any file, which torch's annotation forgets
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,  # any other changes modules' modes, and not back
            opset_version=OPSET,
            input_names=names,
            dynamic_axes={name: {0: "batch"} for name, batched in zip(names, together, strict=True) if batched},
        )
    return buffer.getvalue(), names


def _exported(model: nn.Module, example: Any) -> tuple[bytes, list[str]]:
    """The graph by torch's newer exporter."""
    proto = to_onnx(model, example)
    return proto.SerializeToString(), [given.name for given in proto.graph.input]


def _undefined(example: Any) -> list[tuple[str, Any]]:
    """The example with a NaN in the middle of each tensor."""

    def spoilt(value: float) -> Callable[[Tensor], Tensor]:
        def change(tensor: Tensor) -> Tensor:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
            if tensor.is_floating_point():
                tensor.view(-1)[tensor.numel() // 2] = value
            return tensor

        return change

    return [(str(value), map_tensors(spoilt(value), example)) for value in UNDEFINED]


def _flat(inputs: Any) -> list[Tensor]:
    """All tensors of a nesting in order, fast for the plain kinds."""
    parts = list(inputs.values()) if type(inputs) is dict else inputs
    if type(parts) in (tuple, list):
        if len(parts) == 1 and type(parts[0]) is dict:
            parts = list(parts[0].values())
        if all(type(part) is Tensor for part in parts):
            return list(parts)
    return tensors(inputs)


def quick(inputs: Any) -> Any:
    """Tell inputs apart, faster than ``signature`` does and with their batch sizes.

    Args:
        inputs: Inputs of a model.

    Returns:
        Something hashable that is equal for inputs that differ in their tensors' values alone; for inputs of unusual
        kinds, something that is equal to nothing else.
    """
    kind = type(inputs)
    if kind is Tensor:
        return inputs.shape, inputs.dtype, inputs.is_cpu, inputs.requires_grad
    if kind is tuple or kind is list:
        return (kind, *map(quick, inputs))
    if kind is dict:
        return (kind, *inputs, *map(quick, inputs.values()))
    return (kind, inputs) if kind in (int, float, bool, str, type(None)) else object()
