"""A compressed model as an MLflow model: this package's code, a packed file, no pickle."""

from __future__ import annotations

import importlib.metadata
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ttq_plugin.deploy.packed import save_packed
from ttq_plugin.deploy.source import Source, open_model
from ttq_plugin.errors import InputError
from ttq_plugin.quiet import quiet_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient

CODE = Path(__file__).with_name("pyfunc_model.py")
NEEDED = ("ttq-plugin", "torch", "numpy", "safetensors", "constriction", "mlflow")


def save_model(model: nn.Module | Path, path: Path, task: str | None = None, **keywords: Any) -> None:
    """Write an MLflow model (pyfunc) that ``mlflow.pyfunc.load_model`` loads wherever this package is installed.

    Args:
        model: a plain module, or a file that ``open_model`` reads.
        path: the folder to make; it must not exist or be empty.
        task: the built-in task whose architecture the module has; a file names its own.
        keywords: more of ``mlflow.pyfunc.save_model``'s.

    Raises:
        InputError: if the folder is taken or cannot be made, or ``open_model`` refuses the file.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"an MLflow model needs a folder of its own, {path} exists; name another place.")
    with tempfile.TemporaryDirectory() as folder:
        weights = model if isinstance(model, Path) else _written(model, Path(folder), task)
        keywords |= {
            "artifacts": {"weights": str(weights.resolve())},
            "pip_requirements": [f"{name}=={_version(name)}" for name in NEEDED],
        }
        _save(open_model(weights), path, keywords)


def _save(source: Source, path: Path, keywords: dict[str, Any]) -> None:
    quiet_mlflow()
    import mlflow.pyfunc

    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    try:
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=str(CODE),
            signature=_signature(source),
            input_example=source.example().numpy(),
            **keywords,
        )
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); choose another place.") from None


def log_model(
    client: MlflowClient, run_id: str, model: nn.Module | Path, task: str | None = None, *, name: str = "model"
) -> str:
    """Log an MLflow model as an output of a run, through the client alone: no global or active run is touched.

    Args:
        client: of the store that has the run.
        run_id: whose output the model is.
        model: as ``save_model``.
        task: as ``save_model``.
        name: of the model in MLflow.

    Returns:
        The model's id; its address is ``models:/<id>``.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run = client.get_run(run_id)
    logged = client.create_logged_model(run.info.experiment_id, name, source_run_id=run_id, params=run.data.params)
    status = "FAILED"
    try:
        with tempfile.TemporaryDirectory() as folder:
            inner = Model(artifact_path=logged.artifact_location, run_id=run_id, model_id=logged.model_id)
            save_model(model, Path(folder, "model"), task, mlflow_model=inner)
            client.log_model_artifacts(logged.model_id, str(Path(folder, "model")))
        status = "READY"
    finally:
        client.finalize_logged_model(logged.model_id, status)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def _written(model: nn.Module, folder: Path, task: str | None) -> Path:
    if task is None:
        raise InputError("a module needs the name of its task, so that a file can say which architecture it holds.")
    weights = folder / "weights.safetensors"
    save_packed(model, weights, task=task)
    return weights


def _signature(source: Source) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    with torch.inference_mode():
        classes = source.model(source.example()).shape[1:]
    inputs, outputs = (
        Schema([TensorSpec(np.dtype(np.float32), (-1, *shape))]) for shape in (source.task.shape, classes)
    )
    return ModelSignature(inputs, outputs)


def _version(name: str) -> str:
    """As installed, without the build's label (2.13.0+cpu), which no index knows."""
    return importlib.metadata.version(name).split("+")[0]
