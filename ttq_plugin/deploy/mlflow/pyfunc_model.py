"""The code of an MLflow model: MLflow copies this file into the model and runs it to load it."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch

from ttq_plugin.deploy.source import open_model


class CompressedModel(mlflow.pyfunc.PythonModel):
    """Samples in, logits out; the weights are a safetensors file, never a pickle."""

    def load_context(self, context: Any) -> None:
        """Open the weights; MLflow calls it once, and requires the argument's name."""
        self.module = open_model(Path(context.artifacts["weights"])).model

    # This one type hint makes MLflow check samples by the signature; others replace it, and none is a warning.
    def predict(self, context, model_input: np.ndarray, params=None):  # type: ignore[no-untyped-def]
        """Logits (batch, classes), float32, of samples (batch, ...)."""
        with torch.inference_mode():
            return self.module(torch.from_numpy(np.array(model_input, dtype=np.float32))).numpy()


mlflow.models.set_model(CompressedModel())
