"""C99: compiled with every warning an error, under sanitizers, on real samples, and as Cortex-M4 code under qemu."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.deploy.nets import TERNARY, made, ternarise, trained
from tests.tracking.study import require
from ttq_plugin.deploy.c99.codes import base3, gap_bits, stored
from ttq_plugin.deploy.c99.export import export_c
from ttq_plugin.errors import InputError
from ttq_plugin.measures.storage import entropy
from ttq_plugin.tasks import get_task

HARNESS = Path(__file__).parents[1] / "harness.c"
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wdouble-promotion"]
SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CORTEX_M4 = ["-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard", "-Os"]
RECORDINGS = "Epileptic Seizure Recognition.csv.gz"

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")


def call(*command: str | Path, cwd: Path | None = None) -> str:
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, cwd=cwd)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def run(program: list[str | Path], x: torch.Tensor, outputs: int) -> torch.Tensor:
    """Outputs (samples, ...) of the program on the samples, through files."""
    folder = Path(program[-1]).parent
    x.numpy().astype("<f4").tofile(folder / "x.bin")
    # By short names: a semihosted ARM program gets a command line of at most 255 bytes.
    call(*program[:-1], f"./{Path(program[-1]).name}", "x.bin", "y.bin", cwd=folder)
    return torch.from_numpy(np.fromfile(folder / "y.bin", "<f4").reshape(len(x), outputs))


def check(model: nn.Module, x: torch.Tensor, folder: Path, flags: list[str] = SANITIZED) -> None:
    """C and torch agree on the samples to 1e-4."""
    with torch.inference_mode():
        expected = model(x).flatten(1)
    written = export_c(model, x, folder)
    call("gcc", *STRICT, *flags, "-I", folder, "-o", folder / "program", HARNESS, written.source, "-lm")
    found = run([folder / "program"], x, expected.shape[1])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_real_digits(tmp_path):
    model, data = trained("mnist-cnn")
    check(model, data.validation.x[:40], tmp_path)


@pytest.mark.parametrize("task", ["esr-2dcnn", "esr-cnn-transformer"])
def test_real_recordings(task, tmp_path, shared):
    source = shared / "data" / RECORDINGS
    if task == "esr-2dcnn":
        model, data = trained(task, source)
    else:
        model, data = made(task), get_task(task).load(source, 0)
    check(model, data.validation.x[:6], tmp_path)


class Corners(nn.Module):
    """Every form of weight, and geometry that the tasks' models do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2))
        self.grouped = nn.Conv2d(6, 8, 3, groups=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8, affine=False)
        self.wide = nn.Conv2d(8, 5, 1, padding=2)
        self.rows = nn.Linear(9, 7, bias=False)
        self.integer = nn.Linear(7, 6)
        self.layer_norm = nn.LayerNorm((5, 6), elementwise_affine=False)
        self.last = nn.Linear(30, 3)
        self.factor = nn.Parameter(torch.randn(5, 1))
        with torch.no_grad():
            ternarise(self.first.weight, 0.2)  # few zeros: trits
            for channel in self.grouped.weight:  # scales a channel, one of them without a negative weight
                ternarise(channel, 0.7)
            self.grouped.weight[3].clamp_(min=0)
            ternarise(self.rows.weight, 0.9)
            self.rows.weight[:, 0] = 0
            step = torch.rand(6, 1) / 50
            self.integer.weight.copy_(torch.randint(-127, 128, (6, 7)) * step)
            self.last.weight.zero_()
            self.last.weight[1, 4] = 0.5

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = nn.functional.max_pool2d(nn.functional.leaky_relu(self.norm(self.grouped(x)), 0.1), (2, 1), (1, 2))
        x = self.wide(x)
        x = nn.functional.leaky_relu(x * self.factor.unsqueeze(2), 0.3)
        x = self.integer(self.rows(x.transpose(2, 3)[..., :9].contiguous()[:, :, 1]))
        x = self.layer_norm(torch.cat([x[:, 2:], x[:, :2]], 1) + 1.5)
        return self.last(x.reshape(len(x), 30)), x


class Part(nn.Module):
    """Returns a part of what its only layer computes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randint(0, 2, (6, 4)) - 0.5)

    def forward(self, x):
        return self.layer(x)[:, 1]


class First(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)[0]


def test_corners(tmp_path):
    torch.manual_seed(0)
    model = First(Corners()).eval()
    model.model.norm.running_mean.normal_()
    model.model.norm.running_var.uniform_(0.5, 2)
    x = torch.randn(5, 3, 15, 12)
    check(model, x, tmp_path)
    kinds = export_c(model, x, tmp_path / "again").kinds
    assert list(kinds.values()) == ["trits", "gaps", "floats", "gaps", "bytes", "gaps"]


def test_a_part_of_a_buffer_is_not_the_buffer(tmp_path):
    """Nothing may be written beyond the output; the weight has no zeros, so that only trits are needed."""
    model, x = Part().eval(), torch.randn(3, 2, 4)
    check(model, x, tmp_path)
    assert export_c(model, x, tmp_path / "again").kinds == {"layer.weight": "trits"}


@pytest.mark.parametrize("zeros", [0.0, 0.4, 0.9, 0.995, 1.0])
def test_codes_are_read_back(zeros):
    """By a decoder of its own, bit by bit; gaps take little more than Shannon's bound."""
    random = np.random.default_rng(3)
    codes = np.where(random.random(20_003) < zeros, 0, random.choice([-1, 1], 20_003)).astype(np.int8)
    trits = [byte // 3**place % 3 for byte in base3(codes).tolist() for place in range(5)][: codes.size]
    assert trits == [2 if code < 0 else code for code in codes.tolist()]
    bits, rice = gap_bits(codes)
    stream, found, at = iter(bits.tolist()), np.zeros_like(codes), 0
    while True:
        high = 0
        while next(stream):
            high += 1
        at += (high << rice) + sum(next(stream) << place for place in range(rice))
        negative = next(stream)
        if at == codes.size:
            break
        found[at] = -1 if negative else 1
        at += 1
    assert np.array_equal(found, codes) and next(stream, None) is None
    if 0.4 <= zeros < 1:
        bound = entropy([int((codes == code).sum()) for code in (-1, 0, 1)], scales=0)
        assert len(bits) < 1.06 * bound + 32


def test_the_smallest_form_is_taken():
    weight = torch.zeros(20, 100)
    weight[torch.rand(20, 100, generator=torch.Generator().manual_seed(0)) < 0.1] = 0.5
    assert stored(weight).kind == "gaps" and stored(weight, dense=True).kind == "floats"
    assert stored(torch.where(torch.rand(20, 100) < 0.5, 0.25, -0.5)).kind == "trits"
    assert stored(torch.randint(-127, 128, (20, 100)) * 0.125).kind == "bytes"
    assert stored(torch.randn(20, 100)).kind == "floats"


def arm(program: str) -> str:
    return require(shutil.which(program) or f"/usr/bin/{program}")


@pytest.mark.service
def test_cortex_m4_bytes_and_a_run_under_qemu(tmp_path):
    """Flash and memory beside the float version; the M4's very code, linked for an A7 that qemu-arm can start."""
    compiler = arm("arm-none-eabi-gcc")
    model, data = trained("mnist-cnn")
    sizes = {}
    for dense in (False, True):
        folder = tmp_path / ("float" if dense else "packed")
        written = export_c(model, data.validation.x, folder, dense=dense)
        call(compiler, *STRICT, *CORTEX_M4, "-c", "-o", folder / "model.o", written.source)
        lines = call(arm("arm-none-eabi-size"), folder / "model.o").splitlines()
        text, initialised, memory = map(int, lines[1].split()[:3])
        assert initialised == 0 and memory == written.static_bytes
        assert written.constant_bytes < text < written.constant_bytes + 4000
        sizes[folder.name] = (text, memory)
    print(f"Cortex-M4, -Os, bytes of flash and memory: {sizes}")
    assert sizes["packed"][0] < sizes["float"][0] / 3 and sizes["packed"][1] < 8192

    folder = tmp_path / "packed"
    call(arm("arm-none-eabi-objcopy"), "-R", ".ARM.attributes", folder / "model.o", folder / "plain.o")
    a7 = ["-mcpu=cortex-a7", "-mthumb", "-mfpu=neon-vfpv4", "-mfloat-abi=hard", "-std=c99", "--specs=rdimon.specs"]
    call(compiler, *a7, "-I", folder, "-o", folder / "program", HARNESS, folder / "plain.o", "-lm")
    x = data.validation.x[:5]
    found = run([arm("qemu-arm"), "-cpu", "cortex-a7", folder / "program"], x, 10)
    with torch.inference_mode():
        torch.testing.assert_close(found, model(x), rtol=1e-4, atol=1e-4)


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_what_cannot_be_exported(tmp_path):
    x, linear = torch.randn(1, 4), nn.Linear(4, 2)
    for model, name, message in (
        (
            Bessel(),
            "model",
            "Bessel uses special_bessel_j0, which has neither C code nor an integer form; export it to ONNX instead.",
        ),
        (nn.Sequential(nn.Identity(), Bessel()), "model", "uses special_bessel_j0 in its layer 1, which has"),
        (
            nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2, track_running_stats=False)),
            "model",
            "uses batch_norm in its layer 1, which has neither C code nor an integer form",
        ),
        (linear, "2nd", "must be a C identifier, got '2nd'"),
        (linear, "a/b", "must be a C identifier"),
        (linear, "while", "must be a C identifier"),
        (linear, "my net", "must be a C identifier, got 'my net'; my_net_[0-9a-f]{12} is possible"),
        (linear, "math", "must not be that of a standard C header, got 'math'"),
        (linear, "StdInt", "must not be that of a standard C header, got 'StdInt'"),
    ):
        sample = torch.randn(1, 1, 8) if isinstance(model, (nn.Conv1d, nn.Sequential)) else x
        with pytest.raises(InputError, match=message):
            export_c(model, sample, tmp_path / "c", name=name)
    with torch.no_grad():
        linear.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="finite weights, got NaN or infinity in weight"):
        export_c(linear, x, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_each_task_has_its_layers_coded():
    """Of every layer that was made ternary, the codes are what is written."""
    for task, layers in TERNARY.items():
        model = made(task)
        assert {stored(model.get_submodule(name).weight).kind for name in layers} == {"gaps"}
