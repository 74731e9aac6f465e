"""``ttq export``: a compressed model in the format that a device, a runtime or a server needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ttq_plugin.commands.parts.console import out as console
from ttq_plugin.commands.parts.console import print_json, working
from ttq_plugin.commands.parts.model import Asked, find_model
from ttq_plugin.deploy.bench.compared import Call, in_form, largest_difference, outputs_by
from ttq_plugin.deploy.c99.export import export_c
from ttq_plugin.deploy.c_int8.export import VECTORS, export_int8
from ttq_plugin.deploy.file.packed import save_packed
from ttq_plugin.deploy.integer.calibrated import calibrate
from ttq_plugin.deploy.mlflow.pyfunc import save_model
from ttq_plugin.deploy.onnx.dense import OnnxModule, to_onnx
from ttq_plugin.deploy.onnx.int2 import to_int2
from ttq_plugin.deploy.onnx.int8 import to_int8
from ttq_plugin.deploy.source import Source, task_entries
from ttq_plugin.errors import InputError
from ttq_plugin.support.files import write_whole
from ttq_plugin.support.inputs import batch_size, call
from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.tasks.samples import Split
from ttq_plugin.tasks.scoring.scores import score, score_outputs

ENDINGS = {
    "packed": "-packed.safetensors",
    "onnx": ".onnx",
    "onnx-int2": "-int2.onnx",
    "onnx-int8": "-int8.onnx",
    "c": "-c",
    "c-int8": "-c-int8",
    "mlflow": "-mlflow",
}
"""Suffix that is added to the model's name if --out is not given."""

RANDOM = 16
"""Number of random samples to compare outputs on if there are no data."""

BATCH = 256
"""Samples per call when outputs are compared."""


def export(
    model: str,
    to: str,
    target: Path | None,
    *,
    task: str | None,
    trial: int | None,
    name: str,
    samples: int,
    store: str,
    storage: str | None,
    data: Path | None,
    seed: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Export the model, check the result if it can be run here, and print sizes and differences."""
    if device != "cpu":
        raise InputError(f"--device must be cpu, because exported models run on the CPU, got {device!r}.")
    asked = Asked(model, trial, task, store, storage, data, seed)
    file, found, source = find_model(asked)
    path = target or (file.with_name(file.stem + ENDINGS[to]) if trial is None else Path(found + ENDINGS[to]))
    if path == file:
        raise InputError(f"--out must differ from the path of the model, got {path}.")
    with working(f"export to {to}"):
        result = _written(source, to, path, name, samples)
    result = {"to": to, "path": str(path), "bytes": _bytes(path), "bytes_model": file.stat().st_size, **result}
    result |= {"task": source.task.name, "notes": [*source.notes, *result.get("notes", [])]}
    if as_json:
        print_json(result)
        return
    _print(result, source.task.score)


def _written(source: Source, to: str, path: Path, name: str, samples: int) -> dict[str, Any]:
    """Write the requested format; returns what is reported besides the size."""
    if to == "mlflow":
        if source.own:
            save_model(source.model, path, example=source.example())
        else:
            save_model(source.model, path, source.task.name)
        return {}
    if to == "c":
        return _c(source, path, name)
    if to == "c-int8":
        return _c_int8(source, path, name, samples)
    return _packed(source, path) if to == "packed" else _onnx(source, to, path, samples)


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


def _c_int8(source: Source, path: Path, name: str, samples: int) -> dict[str, Any]:
    """Write integer C code: calibrated on training data, with the calibration that scores best on validation data."""
    data, metric = source.data(needed=True), source.task.score
    assert data is not None
    found = calibrate(source.model, data.train.head(samples).x, data.validation, metric)
    method = source.packed.method if source.packed else None
    about = f"{source.task.name}, {method}" if method else source.task.name
    test = data.validation.head(VECTORS).x
    written = export_int8(found.module, path, name=name, about=about, samples=test)
    files = [written.header, written.source, *([written.test] if written.test else [])]
    floats = score(source.model, data.validation, metric).value
    return {
        "files": [str(file) for file in files],
        "constant_bytes": written.constant_bytes,
        "static_bytes": written.static_bytes,
        "flash": written.flash,
        "ram": written.static_bytes,
        "kinds": written.kinds,
        "calibration": found.calibration,
        "metric": metric.name,
        metric.name: found.score.value,
        f"{metric.name}_torch": floats,
        "notes": list(found.notes),
    }


def _packed(source: Source, path: Path) -> dict[str, Any]:
    """Write a packed file; the method and report that a packed file already holds are kept."""
    packed = source.packed
    known, more = task_entries(source.task.name)
    kept: dict[str, Any] = {"method": packed.method, "report": packed.report} if packed else {}
    kept["more"] = (packed.more if packed else {"seed": source.seed}) | more
    info = save_packed(source.model, path, task=known, **kept)
    return {"packed_bytes": info.packed_bytes}


def _onnx(source: Source, to: str, path: Path, samples: int) -> dict[str, Any]:
    data = source.data(needed=to == "onnx-int8")
    proto = to_onnx(source.model, source.example())
    if to == "onnx-int2":
        proto = to_int2(proto)
    if to == "onnx-int8":
        assert data is not None
        proto = to_int8(proto, data.train.head(samples).x)
    exported = OnnxModule(proto, unpack=to == "onnx-int2")
    found = _compared(source, lambda x: call(exported, x))
    write_whole(path, lambda temporary: Path(temporary).write_bytes(proto.SerializeToString()))
    return found


def _compared(source: Source, exported: Call) -> dict[str, Any]:
    """The largest difference from torch's outputs, on validation data with both scores, or else on an example."""
    data, metric = source.data(), source.task.score
    samples = data.validation if data else _unlabelled(source.example(RANDOM))
    theirs, targets = outputs_by(lambda x: call(source.model, x), samples, BATCH)
    ours = in_form(outputs_by(exported, samples, BATCH)[0], theirs)
    result: dict[str, Any] = {"max_difference": largest_difference(ours, theirs), "samples": len(samples)}
    result |= {"validation": data is not None, "metric": metric.name}
    if data:
        both = {metric.name: ours, f"{metric.name}_torch": theirs}
        result |= {name: score_outputs(outputs, targets, metric).value for name, outputs in both.items()}
    return result


def _unlabelled(x: Any) -> Split:
    return Split(x, torch.zeros(batch_size(x)))


def _bytes(path: Path) -> int:
    """The size of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _print(result: dict[str, Any], metric: Metric) -> None:
    if "files" in result:
        console.print(
            f"{', '.join(result['files'])}: {result['constant_bytes']} bytes of constants, {result['static_bytes']} of "
            "buffers"
        )
    else:
        console.print(f"{result['to']}: {result['path']}, {result['bytes']} bytes (the model: {result['bytes_model']})")
    if "max_difference" in result:
        kind = "validation" if result["validation"] else "random"
        console.print(
            f"onnxruntime against torch on {result['samples']} {kind} samples: outputs differ by at most "
            f"{result['max_difference']:.2g}"
        )
    if "flash" in result:
        flash = ", ".join(f"{size} on {cpu}" for cpu, size in result["flash"].items())
        console.print(f"flash, code and constants: {flash}; calibration by {result['calibration']}")
    if metric.name in result:
        torchs = metric.text(result[f"{metric.name}_torch"])
        console.print(f"{metric.label} {metric.text(result[metric.name])}, torch {torchs} (validation)")
    for note in result["notes"]:
        console.print(f"note: {note}")
