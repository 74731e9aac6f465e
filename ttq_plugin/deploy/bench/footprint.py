"""Peak memory of one form of a model, measured in a separate process: `python -m ttq_plugin.deploy.bench.footprint`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")
CALLS = 3


def peak_memory(form: str, file: Path, inputs: Path, threads: int, task: str | None = None) -> int | None:
    """The peak memory of loading and running a model.

    Args:
        form: `runtime`, `runtime8` (int8 allowed), `integer` (on integers), `torch` (each of a safetensors file) or
            `onnx`.
        file: The file of the model.
        inputs: The inputs of one call, from ``write_example``.
        threads: Number of threads of the computation.
        task: The user's own task that the file's model is of, whose module the process imports; None for a built-in.

    Returns:
        Bytes in addition to those of the process with its libraries loaded; None if the system does not report it.
    """
    words = [sys.executable, "-m", __name__, form, str(file), str(inputs), str(threads), *([task] if task else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    found: int = json.loads(done.stdout.splitlines()[-1])["bytes"]  # because the user's module may print
    return found


def main(form: str, file: str, inputs: str, threads: str, task: str | None = None) -> None:
    """Measure in this process; prints JSON."""
    place = (Path(file), Path(inputs), int(threads))
    ready = _onnx(*place) if form == "onnx" else _torch(form, *place, task)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _status("VmRSS")
    call = ready()
    for _ in range(CALLS):
        call()
    print(json.dumps({"bytes": _status("VmHWM") - before}))


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def _onnx(file: Path, inputs: Path, threads: int) -> Callable[[], Callable[[], object]]:
    import onnxruntime
    from safetensors.numpy import load_file

    found = load_file(inputs)
    arrays = [found[str(place)] for place in range(len(found))]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads

    def ready() -> Callable[[], object]:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        feed = {given.name: array for given, array in zip(session.get_inputs(), arrays, strict=True)}
        return lambda: session.run(None, feed)

    return ready


def _torch(
    form: str, file: Path, inputs: Path, threads: int, task: str | None
) -> Callable[[], Callable[[], object]]:  # fmt: skip
    import torch

    from ttq_plugin.deploy.bench.example_file import read_example
    from ttq_plugin.deploy.runtime.runtime import TernaryRuntime
    from ttq_plugin.deploy.source import open_model
    from ttq_plugin.support.inputs import call
    from ttq_plugin.tasks import get_task

    torch.set_num_threads(threads)
    x = read_example(inputs)
    torch.nn.functional.conv1d(torch.zeros(1, 1, 8), torch.zeros(1, 1, 3))  # torch's own start
    if task is not None:
        get_task(task)  # because its module counts as a library

    @torch.inference_mode()
    def run(model: torch.nn.Module) -> object:
        return call(model, x)

    def ready() -> Callable[[], object]:
        model = open_model(file, task).model
        if form != "torch":
            kind = {"int8": form == "runtime8", "integer": form == "integer"}
            runtime = TernaryRuntime(model, x, threads=threads, onnxruntime=False, **kind)
            return lambda: runtime(x)
        return lambda: run(model)

    return ready


if __name__ == "__main__":
    main(*sys.argv[1:])
