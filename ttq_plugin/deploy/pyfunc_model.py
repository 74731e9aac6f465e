"""The code of an MLflow model: MLflow copies this file into the model and runs it to load it."""

from __future__ import annotations

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

    # Without a hint of the argument's type: MLflow would check the samples by it instead of by the signature.
    def predict(self, context, model_input, params=None) -> np.ndarray:  # type: ignore[no-untyped-def]
        """Logits (batch, classes), float32, of samples (batch, ...)."""
        with torch.inference_mode():
            logits: np.ndarray = self.module(torch.from_numpy(np.array(model_input, dtype=np.float32))).numpy()
        return logits


mlflow.models.set_model(CompressedModel())
