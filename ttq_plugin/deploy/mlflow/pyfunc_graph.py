"""The code of an MLflow model that holds an ONNX graph: MLflow copies this file into the model and runs it."""

from typing import Any

import numpy as np
import onnxruntime
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Graph(PythonModel):
    """Samples in, outputs out: an array where the graph has one, a dict by name where it has several."""

    def load_context(self, context: Any) -> None:
        """Open the graph; MLflow calls it once, and requires the argument's name."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Two-bit weights are multiplied out here, once, and not in every call.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self.session = onnxruntime.InferenceSession(
            context.artifacts["graph"], options, providers=["CPUExecutionProvider"]
        )

    # This one type hint makes MLflow check samples by the signature; others replace it, and none is a warning.
    def predict(self, context, model_input: np.ndarray, params=None):  # type: ignore[no-untyped-def]
        """Outputs of samples (batch, ...): an array, or a dict of arrays by the names in the signature."""
        names = [given.name for given in self.session.get_inputs()]
        given = model_input if isinstance(model_input, dict) else {names[0]: np.asarray(model_input)}
        arrays = self.session.run(None, {name: np.asarray(given[name]) for name in names})
        results = [result.name for result in self.session.get_outputs()]
        return arrays[0] if len(arrays) == 1 else dict(zip(results, arrays, strict=True))


set_model(Graph())
