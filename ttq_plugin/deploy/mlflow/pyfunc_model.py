"""The code of an MLflow model: MLflow copies this file into the model and runs it to load it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from ttq_plugin.deploy.source import open_model


class CompressedModel(PythonModel):
    """Samples in, logits out; the weights are a safetensors file, never a pickle."""

    def load_context(self, context: Any) -> None:
        """Open the weights; MLflow calls it once, and requires the argument's name."""
        self.module = open_model(Path(context.artifacts["weights"])).model

    # This one type hint makes MLflow check samples by the signature; others replace it, and none is a warning.
    def predict(self, context, model_input: np.ndarray, params=None):  # type: ignore[no-untyped-def]
        """Logits (batch, classes), float32, of samples (batch, ...): an array, or a dict by the signature's names."""
        named = model_input if isinstance(model_input, dict) else {"": model_input}
        tensors = {name: torch.from_numpy(np.array(part, dtype=np.float32)) for name, part in named.items()}
        with torch.inference_mode():
            return (self.module(**tensors) if "" not in tensors else self.module(tensors[""])).numpy()


set_model(CompressedModel())
