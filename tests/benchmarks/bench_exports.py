"""Bytes, differences, scores and times of every export of models on disk, as a Markdown table.

    python -m tests.benchmarks.bench_exports FILE... --data FOLDER

FILE is what `ttq compress --out` wrote. Scores are on validation data (seed 0); times are of one sample, one thread,
the median (quartiles) of interleaved runs; flash and memory are arm-none-eabi-size's, Cortex-M4, -Os, without libm.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.deploy.c99.test_c99 import CORTEX_M4
from ttq_plugin.deploy.c99.export import export_c
from ttq_plugin.deploy.file.packed import save_packed
from ttq_plugin.deploy.onnx.dense import OnnxModule, to_onnx
from ttq_plugin.deploy.onnx.int2 import to_int2
from ttq_plugin.deploy.onnx.int8 import to_int8
from ttq_plugin.deploy.source import Source, open_model
from ttq_plugin.tasks.scoring.scores import score as scored
from ttq_plugin.tasks.task import Data, Split

RUNS = 41


class Compiled(nn.Module):
    """Exported C, compiled for this machine."""

    def __init__(self, source: Path, outputs: int) -> None:
        super().__init__()
        library = source.with_suffix(".so")
        subprocess.run(["gcc", "-std=c99", "-O2", "-shared", "-fPIC", "-o", library, source, "-lm"], check=True)
        self.run, self.outputs = ctypes.CDLL(str(library)).model_run, outputs

    def forward(self, x: Tensor) -> Tensor:
        """Logits, one sample after the other."""
        x, result = x.contiguous(), torch.empty(len(x), self.outputs)
        for sample, row in zip(x, result, strict=True):
            self.run(ctypes.c_void_p(sample.data_ptr()), ctypes.c_void_p(row.data_ptr()))
        return result


def flash_and_memory(source: Path) -> str:
    """Bytes on a Cortex-M4."""
    if not shutil.which("arm-none-eabi-gcc"):
        return ""
    target = source.with_suffix(".o")
    subprocess.run(["arm-none-eabi-gcc", *CORTEX_M4, "-std=c99", "-c", "-o", target, source], check=True)
    report = subprocess.run(["arm-none-eabi-size", target], check=True, capture_output=True, text=True).stdout
    text, data, memory = map(int, report.splitlines()[1].split()[:3])
    return f"{text + data} flash, {memory + data} memory"


def exports(source: Source, data: Data, folder: Path) -> dict[str, tuple[nn.Module, str]]:
    """Name -> the module to run and its bytes in words."""
    packed = save_packed(source.model, folder / "m.safetensors", task=source.task.name)
    proto = to_onnx(source.model, source.example())
    int2, int8 = to_int2(proto), to_int8(proto, data.train.x[:256])
    with torch.inference_mode():
        outputs = source.model(source.example()).shape[1]
    written = [export_c(source.model, source.example(), folder / str(dense), dense=dense) for dense in (False, True)]
    ternary, floats = (Compiled(each.source, outputs) for each in written)
    parameters = sum(p.numel() for p in source.model.parameters())
    return {
        "torch, float": (source.model, f"{4 * parameters} of parameters; packed file {packed.nbytes}"),
        "ONNX, float": (OnnxModule(proto), str(proto.ByteSize())),
        "ONNX, int2": (OnnxModule(int2), str(int2.ByteSize())),
        "ONNX, int2, unpacked once": (OnnxModule(int2, unpack=True), "the same"),
        "ONNX, int8": (OnnxModule(int8), str(int8.ByteSize())),
        "C99": (ternary, flash_and_memory(written[0].source)),
        "C99, float weights": (floats, flash_and_memory(written[1].source)),
    }


def table(path: Path, data_folder: Path | None, limit: int) -> str:
    """The rows of one model."""
    source = open_model(path)
    data = source.task.load(data_folder, 0)
    part = Split(data.validation.x[:limit], data.validation.y[:limit])
    lines = [f"### {source.task.name}, {path.name}, {len(part)} validation samples", ""]
    lines += ["| form | bytes | largest difference from torch | MCC, % | ms a sample |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
        forms = exports(source, data, Path(folder))
        with torch.inference_mode():
            expected = source.model(part.x)
            differences = {name: (form(part.x) - expected).abs().max().item() for name, (form, _) in forms.items()}
            times: dict[str, list[float]] = {name: [] for name in forms}
            for run in range(RUNS):
                for name, (form, _) in forms.items():
                    sample = part.x[run : run + 1]
                    started = time.perf_counter()
                    form(sample)
                    times[name].append(1e3 * (time.perf_counter() - started))
        for name, (form, size) in forms.items():
            low, middle, high = statistics.quantiles(times[name], n=4)
            score = 100 * scored(form, part).value
            lines.append(
                f"| {name} | {size} | {differences[name]:.1e} | {score:.2f} | {middle:.3f} ({low:.3f}-{high:.3f}) |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, help="the task's data file")
    parser.add_argument("--limit", type=int, default=1000, help="validation samples")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for path in options.files:
        print(table(path, options.data, options.limit) + "\n", flush=True)


if __name__ == "__main__":
    main()
