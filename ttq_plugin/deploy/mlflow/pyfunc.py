"""A compressed model as an MLflow model without a pickle: a packed file and this package's code, or an ONNX graph."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ttq_plugin.deploy.bench.compared import in_form
from ttq_plugin.deploy.file.packed import save_packed
from ttq_plugin.deploy.flat import input_names
from ttq_plugin.deploy.onnx.dense import OnnxModule, to_onnx
from ttq_plugin.deploy.onnx.int2 import to_int2
from ttq_plugin.deploy.runtime.agreement import ROUNDED, disagreement, probes
from ttq_plugin.deploy.source import Source, open_model
from ttq_plugin.errors import InputError
from ttq_plugin.support.inputs import batch_size, call, repeated, tensors
from ttq_plugin.support.quiet import quiet_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient

CODE, GRAPH_CODE = (Path(__file__).with_name(name) for name in ("pyfunc_model.py", "pyfunc_graph.py"))
NEEDED = ("ttq-plugin", "torch", "numpy", "safetensors", "constriction", "mlflow")
GRAPH_NEEDED = ("onnxruntime", "numpy", "mlflow")


@dataclass(frozen=True)
class _Content:
    """What an MLflow model is made of: its code, files by name, packages, and what goes in and comes out."""

    code: Path
    files: Mapping[str, bytes | Path]
    needed: tuple[str, ...]
    inputs: Any
    signature: Any


def save_model(
    model: nn.Module | Path, path: Path, task: str | None = None, *, example: Any = None, **keywords: Any
) -> None:
    """Write an MLflow model (pyfunc) that ``mlflow.pyfunc.load_model`` loads.

    For a built-in task it holds a packed file and loads wherever this package is installed. For any other task it holds
    an ONNX graph and loads without the model's own code and without this package; ternary weights take two bits.

    Args:
        model: A plain module, or a file that ``open_model`` reads.
        path: The folder to create; it must not exist, or be empty.
        task: The built-in task whose architecture the module has; a file names its own task.
        example: Samples that the module takes, where it is of no built-in task: a tuple is the positional arguments, a
            dict the keyword arguments, anything else the only argument.
        keywords: More of ``mlflow.pyfunc.save_model``'s.

    Raises:
        InputError: If the folder is not empty or cannot be created, ``open_model`` refuses the file, or the module has
            no ONNX graph that reproduces its outputs.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"an MLflow model needs a new folder, but {path} exists; choose another path.")
    if example is not None and isinstance(model, nn.Module):
        _save(_graph(model, example), path, keywords)
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = model if isinstance(model, Path) else _written(model, Path(folder), task)
        _save(_packed(open_model(weights), weights), path, keywords)


def _save(content: _Content, path: Path, keywords: dict[str, Any]) -> None:
    quiet_mlflow()
    import mlflow.pyfunc

    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, _whole_folder(path) as made:
        places = {}
        for name, file in content.files.items():
            places[name] = file if isinstance(file, Path) else Path(folder, name)
            if isinstance(file, bytes):
                places[name].write_bytes(file)
        mlflow.pyfunc.save_model(
            path=str(made),
            python_model=str(content.code),
            artifacts={name: str(place.resolve()) for name, place in places.items()},
            pip_requirements=[f"{name}=={_version(name)}" for name in content.needed],
            signature=content.signature,
            input_example=content.inputs,
            **keywords,
        )


@contextmanager
def _whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder next to the target, which is moved into place once it is complete."""
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".ttq-") as beside:
            yield Path(beside, "model")
            os.replace(Path(beside, "model"), path)
    except BaseException as error:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        if (refused := _of_the_system(error)) is None:
            raise
        raise InputError(f"{path} cannot be written ({refused.strerror or refused}); choose another place.") from None


def _of_the_system(error: BaseException | None) -> OSError | None:
    """The error of the file system that an error was raised for, which MLflow wraps into its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return error


def _packed(source: Source, weights: Path) -> _Content:
    """A packed file that this package opens."""
    example = source.example()
    given = dict(zip(input_names(source.model, example), tensors(example), strict=True))
    with torch.inference_mode():
        signature = _signature(given, {"": call(source.model, example)}, batch=1)
    return _Content(CODE, {"weights": weights}, NEEDED, _arrays(given), signature)


def _arrays(given: Mapping[str, Tensor]) -> Any:
    """Inputs as MLflow takes them: an array, or a dict of arrays by name where there are several."""
    arrays = {name: tensor.detach().numpy() for name, tensor in given.items()}
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def _graph(model: nn.Module, example: Any) -> _Content:
    """An ONNX graph, once it has given what the module gives."""
    proto = to_int2(to_onnx(model, example))
    session = OnnxModule(proto, unpack=True)
    few = repeated(example, min(2, batch_size(example)))
    with torch.inference_mode():
        outputs = call(model, few)
        found = disagreement(model, lambda x: in_form(call(session, x), outputs), probes(few), ROUNDED)
    if found is not None:
        raise InputError(f"the ONNX graph of {type(model).__name__} does not reproduce its outputs: {found}.")
    given = dict(zip(session.names, tensors(few), strict=True))
    made = dict(zip(session.results, tensors(outputs), strict=True))
    return _Content(
        GRAPH_CODE,
        {"graph": proto.SerializeToString()},
        GRAPH_NEEDED,
        _arrays(given),
        _signature(given, made, batch_size(few)),
    )


def log_model(
    client: MlflowClient,
    run_id: str,
    model: nn.Module | Path,
    task: str | None = None,
    *,
    name: str = "model",
    example: Any = None,
) -> str:
    """Log an MLflow model as an output of a run, using only the client: no global or active run is affected.

    Args:
        client: The client of the store that has the run.
        run_id: The run whose output the model is.
        model: The model, as in ``save_model``.
        task: The task, as in ``save_model``.
        name: Name of the model in MLflow.
        example: The example, as in ``save_model``.

    Returns:
        The model's id; its address is ``models:/<id>``.

    Raises:
        InputError: As ``save_model``; where it is a graph that is missing, nothing was logged.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    content = _graph(model, example) if example is not None and isinstance(model, nn.Module) else None

    run = client.get_run(run_id)
    logged = client.create_logged_model(run.info.experiment_id, name, source_run_id=run_id, params=run.data.params)
    status: Literal["READY", "FAILED"] = "FAILED"
    try:
        with tempfile.TemporaryDirectory() as folder:
            inner = Model(artifact_path=logged.artifact_location, run_id=run_id, model_id=logged.model_id)
            if content is None:
                save_model(model, Path(folder, "model"), task, mlflow_model=inner)
            else:
                _save(content, Path(folder, "model"), {"mlflow_model": inner})
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


def _signature(given: Mapping[str, Tensor], made: Mapping[str, Tensor], batch: int) -> Any:
    """Dtypes and shapes by name; a tensor that is alone goes without one."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    def schema(named: Mapping[str, Tensor]) -> Any:
        specs: list[ColSpec | TensorSpec] = []
        for name, tensor in named.items():
            shape = (-1, *tensor.shape[1:]) if tensor.dim() and len(tensor) == batch else tuple(tensor.shape)
            specs.append(TensorSpec(tensor.detach().numpy().dtype, shape, name if len(named) > 1 else None))
        return Schema(specs)

    return ModelSignature(schema(given), schema(made))


def _version(name: str) -> str:
    """As installed, without the build's label (2.13.0+cpu), which no index knows."""
    return importlib.metadata.version(name).split("+")[0]
