"""``ttq export``: a compressed model in the form that a device, a runtime or a server takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ttq_plugin.commands.console import out as console
from ttq_plugin.commands.console import percent, print_json
from ttq_plugin.deploy.c99 import export_c
from ttq_plugin.deploy.onnx_dense import OnnxModule, to_onnx
from ttq_plugin.deploy.onnx_int2 import to_int2
from ttq_plugin.deploy.onnx_int8 import to_int8
from ttq_plugin.deploy.packed import save_packed
from ttq_plugin.deploy.pyfunc import save_model
from ttq_plugin.deploy.source import Source, open_model
from ttq_plugin.errors import InputError
from ttq_plugin.files import write_whole
from ttq_plugin.tasks.scores import score
from ttq_plugin.tasks.task import Data

ENDINGS = {
    "packed": "-packed.safetensors",
    "onnx": ".onnx",
    "onnx-int2": "-int2.onnx",
    "onnx-int8": "-int8.onnx",
    "c": "-c",
    "mlflow": "-mlflow",
}
"""What the model's name gets where --out names nothing."""

RANDOM = 16
"""Samples to compare on where there are no data."""


def export(
    model: Path,
    to: str,
    target: Path | None,
    *,
    name: str,
    samples: int,
    data: Path | None,
    seed: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Export, check what was written where it can be run here, print sizes and differences."""
    if device != "cpu":
        raise InputError(f"--device must be cpu: what is exported runs there, got {device!r}.")
    source = open_model(model)
    path = target or model.with_name(model.stem + ENDINGS[to])
    if path == model:
        raise InputError(f"--out must name another place than the model, got {path}.")
    result: dict[str, Any] = {}
    if to == "mlflow":
        save_model(model, path)
    elif to == "c":
        result = _c(source, path, name)
    elif to == "packed":
        result = _packed(source, path)
    else:
        result = _onnx(source, to, path, samples, data, seed or 0)
    result = {"to": to, "path": str(path), "bytes": _bytes(path), "bytes_model": model.stat().st_size, **result}
    if as_json:
        print_json(result)
        return
    _print(result)


def _c(source: Source, path: Path, name: str) -> dict[str, Any]:
    method = source.packed.method if source.packed else None
    about = f"{source.task.name}, {method}" if method else source.task.name
    written = export_c(source.model, source.example(), path, name=name, about=about)
    return {
        "files": [str(written.header), str(written.source)],
        "constant_bytes": written.constant_bytes,
        "static_bytes": written.static_bytes,
        "kinds": written.kinds,
    }


def _packed(source: Source, path: Path) -> dict[str, Any]:
    """What a packed file already says of its method and report is kept."""
    known = source.packed
    kept = {"method": known.method, "report": known.report, "more": known.more} if known else {}
    info = save_packed(source.model, path, task=source.task.name, **kept)  # type: ignore[arg-type]
    return {"packed_bytes": info.packed_bytes}


def _onnx(source: Source, to: str, path: Path, samples: int, data: Path | None, seed: int) -> dict[str, Any]:
    loaded = source.data(data, seed, needed=to == "onnx-int8")
    proto = to_onnx(source.model, source.example())
    if to == "onnx-int2":
        proto = to_int2(proto)
    if to == "onnx-int8":
        assert loaded is not None
        proto = to_int8(proto, loaded.train.x[:samples])
    write_whole(path, lambda temporary: Path(temporary).write_bytes(proto.SerializeToString()))
    return _compared(source, OnnxModule(proto, unpack=to == "onnx-int2"), loaded)


def _compared(source: Source, exported: nn.Module, data: Data | None) -> dict[str, Any]:
    """The largest difference from torch's outputs: on validation data, with both MCCs, or else on random samples."""
    x = data.validation.x if data else source.example(RANDOM)
    with torch.inference_mode():
        differences = [(exported(part) - source.model(part)).abs().max().item() for part in x.split(256)]
    result = {"max_difference": max(differences), "samples": len(x), "validation": data is not None}
    if data:
        metric = source.task.score
        pairs = {"mcc": exported, "mcc_torch": source.model}
        result |= {name: score(model, data.validation, metric).value for name, model in pairs.items()}
    return result


def _bytes(path: Path) -> int:
    """Of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _print(result: dict[str, Any]) -> None:
    if "files" in result:
        console.print(
            f"{', '.join(result['files'])}: {result['constant_bytes']} bytes of constants, {result['static_bytes']} of "
            "buffers"
        )
        return
    console.print(f"{result['to']}: {result['path']}, {result['bytes']} bytes (the model: {result['bytes_model']})")
    if "max_difference" in result:
        kind = "validation" if result["validation"] else "random"
        console.print(
            f"onnxruntime against torch on {result['samples']} {kind} samples: outputs differ by at most "
            f"{result['max_difference']:.2g}"
        )
    if "mcc" in result:
        console.print(f"MCC {percent(result['mcc'])}, torch {percent(result['mcc_torch'])} (validation)")
