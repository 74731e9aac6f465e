"""C on integers: the module's integers on every input, bytes as predicted, nothing of a floating-point library."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.deploy.integer.nets import NETS, inputs, network
from tests.deploy.nets import trained
from tests.tracking.study import require
from ttq_plugin import InputError, integerize
from ttq_plugin.deploy.c_int8 import sizes
from ttq_plugin.deploy.c_int8.codes import KINDS, coded, deltas
from ttq_plugin.deploy.c_int8.export import WrittenIntegers, export_int8
from ttq_plugin.deploy.c_int8.placement import place
from ttq_plugin.deploy.c_int8.writer import Writer
from ttq_plugin.deploy.integer.module import IntegerModule

HARNESS = ("-DNUMBER=int8_t", Path(__file__).parents[1] / "harness.c")
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wfloat-conversion"]
SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")


def call(*command: str | Path, cwd: Path | None = None) -> str:
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, cwd=cwd)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def outputs(program: list[str | Path], q: Tensor, count: int, folder: Path) -> Tensor:
    """What the program gives on the samples, through files."""
    q.numpy().tofile(folder / "x.bin")
    call(*program, "x.bin", "y.bin", cwd=folder)
    return torch.from_numpy(np.fromfile(folder / "y.bin", np.int8).reshape(len(q), count))


def differing(integer: IntegerModule, q: Tensor, folder: Path, flags: list[str], **options: bool) -> int:
    """Integers that the compiled code gives otherwise than the module."""
    written = export_int8(integer, folder, **options)
    call("gcc", *STRICT, *flags, "-I", folder, "-o", folder / "program", *HARNESS, written.source)
    expected = integer.integers(q)
    return int((outputs(["./program"], q, expected.shape[1], folder) != expected).sum())


def any_integers(integer: IntegerModule, count: int) -> Tensor:
    """Inputs of all integers there are, which calibration has not seen."""
    shape, generator = (count, integer.program.input.size), torch.Generator().manual_seed(5)
    return torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)


@pytest.mark.parametrize("zeros", [None, 0.2, 0.9])
@pytest.mark.parametrize("name", NETS)
def test_every_network_gives_the_modules_integers(name, zeros, tmp_path):
    """Under sanitizers, on samples and on whatever integers there are."""
    integer = integerize(network(name, zeros), inputs(20))
    q = torch.cat([integer.quantised(inputs(4)), any_integers(integer, 4)])
    assert differing(integer, q, tmp_path, SANITIZED) == 0


@pytest.mark.parametrize("flags", [["-O0"], ["-O3", "-march=native"]])
def test_ten_thousand_digits_under_each_optimisation(flags, tmp_path):
    model, data = trained("mnist-cnn")
    integer = integerize(model, data.train.head(256).x)
    q = torch.cat([integer.quantised(data.validation.x), any_integers(integer, 9000)])
    assert len(q) == 10_000 and differing(integer, q, tmp_path, flags) == 0


@pytest.mark.parametrize("zeros", [0.2, 0.9, 0.999])
def test_codes_that_are_read_faster_give_the_same(zeros, tmp_path):
    integer = integerize(network("rows", zeros), inputs(20))
    kinds = Writer(integer.program, fast=True).kinds
    assert kinds["2.weight"] == "bytes" and kinds["0.weight"] in {"trits", "deltas"}
    assert differing(integer, any_integers(integer, 20), tmp_path, SANITIZED, fast=True) == 0


def test_a_layer_of_zeros_and_channels_of_zeros(tmp_path):
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()
    with torch.no_grad():
        model[0].weight.zero_()
        model[2].weight.copy_(torch.sign(model[2].weight) * 0.25)
        model[2].weight[1:3] = 0
    integer = integerize(model, inputs(10))
    assert differing(integer, any_integers(integer, 10), tmp_path, SANITIZED) == 0


@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.9, 0.995, 1.0])
def test_deltas_are_read_back(zeros):
    random = np.random.default_rng(3)
    codes = np.where(random.random(20_003) < zeros, 0, random.choice([-1, 1], 20_003)).astype(np.int8)
    found, at = np.zeros_like(codes), 0
    for byte in deltas(codes).tolist():
        at += byte >> 1
        if byte >> 1 < 127:
            found[at] = -1 if byte & 1 else 1
            at += 1
    assert np.array_equal(found, codes)
    sizes_by_kind = {kind: coded(codes, kind != "gaps").values.nbytes for kind in KINDS}
    assert coded(codes).values.nbytes == min(sizes_by_kind.values())


@pytest.mark.parametrize("name", NETS)
def test_buffers_in_use_at_the_same_time_do_not_overlap(name):
    """The arena is the most that is in use at the same time, in every one of these networks."""
    program = integerize(network(name), inputs(4)).program
    placement = place(program)
    assert placement.size == placement.bound
    last = {view.buffer: index for index, op in enumerate(program.ops) for view in op.inputs}
    for index, op in enumerate(program.ops):
        alive = [b for b in placement.offsets if last.get(b, -1) > index and b is not op.output.buffer]
        written = placement.offsets.get(op.output.buffer)
        begun = {o.output.buffer for o in program.ops[:index]}
        for buffer in (b for b in alive if b in begun and written is not None):
            at = placement.offsets[buffer]
            assert at + buffer.size <= written or written + op.output.buffer.size <= at


def test_the_test_program_counts_what_differs(tmp_path):
    model, data = trained("mnist-cnn")
    written = export_int8(integerize(model, data.train.head(64).x), tmp_path, samples=data.validation.x, about="digits")
    assert written.test is not None and "digits. Written by" in written.header.read_text()
    call("gcc", *STRICT, "-O1", "-o", tmp_path / "test", written.source, written.test)
    call(tmp_path / "test")
    text = written.test.read_text()
    place_of = text.index("expected[")
    first = text.index("\n    ", place_of) + 5
    number = text[first : text.index(",", first)]
    written.test.write_text(text[:first] + str(int(number) ^ 1) + text[first + len(number) :])
    call("gcc", *STRICT, "-O1", "-o", tmp_path / "test", written.source, written.test)
    assert subprocess.run([tmp_path / "test"], check=False).returncode == 1


def test_bad_names_are_refused_before_anything_is_written(tmp_path):
    integer = integerize(nn.Linear(4, 2), torch.randn(9, 4))
    with pytest.raises(InputError, match="must be a C identifier, got '2nd'"):
        export_int8(integer, tmp_path / "c", name="2nd")
    with pytest.raises(InputError, match="must not be that of a standard C header, got 'stdint'"):
        export_int8(integer, tmp_path / "c", name="stdint")
    assert not (tmp_path / "c").exists()


def arm(program: str) -> str:
    return require(shutil.which(program) or f"/usr/bin/{program}")


def linked(written: WrittenIntegers, cpu: str, folder: Path) -> tuple[int, int, str]:
    """Flash and memory of the linked code, as the linker tells, and the names in it."""
    compiler = arm("arm-none-eabi-gcc")
    call(compiler, *STRICT, *sizes.FLAGS, f"-mcpu={cpu}", "-c", "-o", folder / f"{cpu}.o", written.source)
    call(
        compiler, f"-mcpu={cpu}", "-mthumb", "-nostdlib", "-Wl,--gc-sections,-e,model_run",
        "-o", folder / f"{cpu}.elf", folder / f"{cpu}.o", "-lgcc",
    )  # fmt: skip
    text, initialised, memory = map(
        int, call(arm("arm-none-eabi-size"), folder / f"{cpu}.elf").splitlines()[1].split()[:3]
    )
    assert initialised == 0
    return text, memory, call(arm("arm-none-eabi-nm"), folder / f"{cpu}.elf")


def check_sizes(integer: IntegerModule, cpu: str, folder: Path) -> None:
    """Bytes as predicted, and nothing of a floating-point library."""
    written, writer = export_int8(integer, folder), Writer(integer.program)
    flash, memory, names = linked(written, cpu, folder)
    assert flash == sizes.flash_bytes(writer, cpu)
    assert memory == written.static_bytes
    borrowed = {line.split()[-1] for line in names.splitlines() if "aeabi" in line or line.split()[-1].startswith("__")}
    soft_float = ("fadd", "fmul", "fdiv", "fsub", "dadd", "dmul", "ddiv", "2f", "2d", "f2", "d2", "cmp")
    assert not [name for name in borrowed if any(part in name for part in soft_float)]
    assert {name for name in borrowed if "aeabi" in name} <= {"__aeabi_lmul"}


def check_emulated(integer: IntegerModule, x: Any, cpu: str, folder: Path) -> None:
    """The processor's own code gives the module's integers."""
    q = torch.cat([integer.quantised(x), any_integers(integer, 4)])
    written = export_int8(integer, folder)
    compiler = arm("arm-none-eabi-gcc")
    call(compiler, *STRICT, *sizes.FLAGS, f"-mcpu={cpu}", "-c", "-o", folder / "model.o", written.source)
    call(arm("arm-none-eabi-objcopy"), "-R", ".ARM.attributes", folder / "model.o", folder / "plain.o")
    a7 = ["-mcpu=cortex-a7", "-mthumb", "-mfpu=neon-vfpv4", "-mfloat-abi=hard", "-std=c99", "--specs=rdimon.specs"]
    call(compiler, *a7, "-I", folder, "-o", folder / "program", *HARNESS, folder / "plain.o")
    expected = integer.integers(q)
    found = outputs([arm("qemu-arm"), "-cpu", "cortex-a7", "./program"], q, expected.shape[1], folder)
    assert int((found != expected).sum()) == 0


@pytest.mark.service
@pytest.mark.parametrize("cpu", sizes.CPUS)
@pytest.mark.parametrize("name", [*NETS, "mnist-cnn"])
def test_flash_and_memory_are_the_linkers_to_the_byte(name, cpu, tmp_path):
    """And nothing of a floating-point, mathematical or memory library is linked."""
    if name == "mnist-cnn":
        model, data = trained(name)
        integer = integerize(model, data.train.head(64).x)
    else:
        integer = integerize(network(name), inputs(8))
    check_sizes(integer, cpu, tmp_path)


@pytest.mark.service
@pytest.mark.parametrize("cpu", sizes.CPUS)
@pytest.mark.parametrize("name", ["mnist-cnn", "separable", "mixed", "residual"])
def test_a_run_of_the_processors_own_code_under_qemu(name, cpu, tmp_path):
    """The very code for the processor, linked for an A7 that qemu-arm can start."""
    if name == "mnist-cnn":
        model, data = trained(name)
        integer, x = integerize(model, data.train.head(64).x), data.validation.x[:50]
    else:
        integer, x = integerize(network(name), inputs(8)), inputs(4)
    check_emulated(integer, x, cpu, tmp_path)
