"""Peak memory of one form of a model, in a process of its own: `python -m ttq_plugin.deploy.footprint`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

STATUS = Path("/proc/self/status")
CALLS = 3


def peak_memory(form: str, file: Path, shape: Sequence[int], batch: int, threads: int) -> int | None:
    """What loading and running a model takes at most.

    Args:
        form: `runtime`, `runtime8` (int8 allowed), `torch` (each of a safetensors file) or `onnx`.
        file: of the model.
        shape: of a sample.
        batch: samples at once.
        threads: of the computation.

    Returns:
        Bytes above those of the process that has loaded its libraries; None where the system does not tell.
    """
    words = [sys.executable, "-m", __name__, form, str(file), ",".join(map(str, shape)), str(batch), str(threads)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)["bytes"] if done.returncode == 0 else None


def main(form: str, file: str, shape: str, batch: str, threads: str) -> None:
    """Measure in this process; prints JSON."""
    sizes = (int(batch), *map(int, shape.split(",")))
    place = (Path(file), sizes, int(threads))
    ready = _onnx(*place) if form == "onnx" else _torch(form, *place)
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


def _onnx(file: Path, sizes: Sequence[int], threads: int) -> Callable[[], Callable[[], object]]:
    import numpy as np
    import onnxruntime

    x = np.zeros(sizes, dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads

    def ready() -> Callable[[], object]:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {session.get_inputs()[0].name: x})

    return ready


def _torch(form: str, file: Path, sizes: Sequence[int], threads: int) -> Callable[[], Callable[[], object]]:
    import torch

    from ttq_plugin.deploy.runtime import TernaryRuntime
    from ttq_plugin.deploy.source import open_model

    torch.set_num_threads(threads)
    x = torch.randn(sizes)
    torch.nn.functional.conv1d(torch.zeros(1, 1, 8), torch.zeros(1, 1, 3))  # torch's own start

    @torch.inference_mode()
    def run(model: torch.nn.Module) -> object:
        return model(x)

    def ready() -> Callable[[], object]:
        model = open_model(file).model
        if form != "torch":
            runtime = TernaryRuntime(model, x, threads=threads, int8=form == "runtime8")
            return lambda: runtime(x)
        return lambda: run(model)

    return ready


if __name__ == "__main__":
    main(*sys.argv[1:])
