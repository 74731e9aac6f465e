"""What a machine with a GPU can tell in four minutes: the tests that need one, and what a training step costs there.

``python -m tests.benchmarks.cuda_check``. It needs torch, numpy and pytest, and nothing else that the package needs,
so that a machine without a network can run it. It prints the outcome of tests/native/test_cuda.py and, for two
networks, the time of a training step with pTTQ beside the full-precision one, in turns, the kernels that a step starts,
and how long the GPU works on them. ``--device cpu --batch 2 --turns 3`` tries the script itself.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.turns import lines, take_turns
from ttq_plugin.core import parameter_groups, ternarize
from ttq_plugin.tasks.builtin.cnn import CNN2D

ROOT = Path(__file__).resolve().parents[2]
BASE = "full precision"
GRANULARITIES = {"pttq a layer": "default", "pttq a channel": "out_channel"}


class Block(nn.Module):
    """Two 3x3 convolutions and what goes around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


def resnet18() -> nn.Sequential:
    """ResNet-18 (He et al. 2016) with ten classes; the first and the last layer stay dense below."""
    blocks, inputs = [], 64
    for outputs, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        blocks.append(Block(inputs, outputs, stride))
        inputs = outputs
    stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    return nn.Sequential(stem, nn.Sequential(*blocks), head)


@dataclass(frozen=True)
class Case:
    """A network, its input's shape, its classes, the names of what becomes ternary, and how many steps a turn has."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    layers: list[str]
    steps: int


CASES = {
    "ESR 2D CNN": Case(CNN2D, (1, 32, 37), 2, ["conv2", "conv3", "conv4"], 20),
    "ResNet-18, 64 px": Case(resnet18, (3, 64, 64), 10, ["1"], 10),
    "ResNet-18, 224 px": Case(resnet18, (3, 224, 224), 10, ["1"], 3),
}


def step(case: Case, granularity: str | None, device: str, batch: int, compiled: bool = False) -> Callable[[], None]:
    """One step of a training with momentum, of the full-precision network where there is no granularity."""
    torch.manual_seed(0)
    model = case.make().to(device)
    if granularity is not None:
        ternarize(model, case.layers, granularity=granularity, on_empty="clip")
    optimizer = torch.optim.SGD(parameter_groups(model), lr=1e-3, momentum=0.9)
    x, y = torch.randn(batch, *case.shape, device=device), torch.randint(case.classes, (batch,), device=device)
    forward = torch.compile(model) if compiled else model

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(forward(x), y).backward()
        optimizer.step()

    return run


def on_the_gpu(run: Callable[[], None]) -> tuple[int, float]:
    """How many kernels a step starts, and for how many milliseconds the GPU works on them."""
    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    kernels = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return len(kernels), sum(e.device_time_total for e in kernels) / 1e3


def table(name: str, case: Case, arguments: argparse.Namespace, compiled: bool) -> None:
    """Print the steps of one network."""
    device, batch = arguments.device, arguments.batch
    how = "torch.compile" if compiled else "eager"
    started = time.perf_counter()
    names: dict[str, str | None] = {BASE: None, **GRANULARITIES}
    variants = {label: step(case, kind, device, batch, compiled) for label, kind in names.items()}
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    steps = case.steps if device == "cuda" else 1
    found = take_turns(variants, arguments.turns, steps, wait, arguments.seconds)
    print(f"\n{name}, batch {batch}, {how}, {len(found[BASE])} turns of {steps} steps")
    for label, line in zip(found, lines(found, BASE), strict=True):
        if device == "cuda":
            count, busy = on_the_gpu(variants[label])
            line += f"   {count:5d} kernels, {busy:8.3f} ms on the GPU"
        print(line, flush=True)
    print(f"({time.perf_counter() - started:.0f} s)", flush=True)


def run_tests(limit: float) -> int:
    """Run the tests of a GPU without plug-ins and without what the other tests share; the process's exit status."""
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "--tb=short"]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    try:
        done = subprocess.run(
            [*command, "tests/native/test_cuda.py"], cwd=ROOT, env=environment, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        print(f"The tests took longer than {limit:.0f} s.", flush=True)
        return 124
    return done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=10, help="after so many a table is printed as it stands")
    parser.add_argument("--compile", action="store_true", help="also the first network under torch.compile")
    parser.add_argument("--only", choices=("tests", "steps"), help="one half of the check")
    arguments = parser.parse_args()
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, {where}", flush=True)
    status = 0 if arguments.only == "steps" else run_tests(120)
    if arguments.only != "tests":
        for name, case in CASES.items():
            table(name, case, arguments, compiled=False)
        if arguments.compile:
            name = next(iter(CASES))
            table(name, CASES[name], arguments, compiled=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
